// Colours of the pack's own sockets and links, for the classic canvas and for Vue nodes.
import { app } from "../../scripts/app.js";

const COLORS = {
  UPFUSION_MODEL: "#b39ddb",
  UPFUSION_SCENE: "#4db6ac",
  UPFUSION_CAMERAS: "#ffb74d",
  UPFUSION_VIEWS: "#4fc3f7",
  UPFUSION_FIELD: "#f06292",
  UPFUSION_PLACEMENT: "#aed581",
};

app.registerExtension({
  name: "UpFusion.SocketColors",
  setup() {
    for (const [type, color] of Object.entries(COLORS)) {
      app.canvas.default_connection_color_byType[type] = color;
      app.canvas.constructor.link_type_colors[type] = color;
      document.documentElement.style.setProperty(`--color-datatype-${type}`, color);
    }
  },
});
