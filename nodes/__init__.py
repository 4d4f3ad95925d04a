"""The nodes: thin shells that convert ComfyUI's values, call upfusion_core, and convert back."""

from __future__ import annotations

from .requirements import require_comfyui

require_comfyui()  # before anything is imported from ComfyUI, so that an old one gets a readable sentence

from comfy_api.latest import ComfyExtension, io  # noqa: E402


class UpFusionExtension(ComfyExtension):
    """The pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of the stages."""
        from .cameras import UpFusionCamera, UpFusionCameraFromLoad3D, UpFusionCameraToLoad3D, UpFusionOrbitCameras
        from .evaluate import UpFusionCompareViews
        from .field import UpFusionDistill, UpFusionExtractMesh, UpFusionRenderField
        from .files import UpFusionLoadField, UpFusionSaveField, UpFusionSaveMesh
        from .loaders import UpFusionLoadModel
        from .model_files import register_folder
        from .photo_cameras import UpFusionPhotoCameras
        from .sampling import UpFusionConditioning, UpFusionSampleViews
        from .scene import UpFusionEncodeViews, UpFusionPredictViews
        from .views import UpFusionExampleViews, UpFusionPrepareViews

        register_folder()
        return [
            UpFusionLoadModel,
            UpFusionExampleViews,
            UpFusionPrepareViews,
            UpFusionEncodeViews,
            UpFusionOrbitCameras,
            UpFusionCamera,
            UpFusionCameraFromLoad3D,
            UpFusionCameraToLoad3D,
            UpFusionPhotoCameras,
            UpFusionPredictViews,
            UpFusionConditioning,
            UpFusionSampleViews,
            UpFusionDistill,
            UpFusionRenderField,
            UpFusionExtractMesh,
            UpFusionSaveField,
            UpFusionLoadField,
            UpFusionSaveMesh,
            UpFusionCompareViews,
        ]
