// Loads workflows in ComfyUI's own frontend, each in a tab of its own, tells what became of each, runs the last one and
// takes a picture of it.
// usage: node load_workflow.js URL PICTURE.png SECONDS WORKFLOW.json...; prints one JSON report, exits with 0 if it was
// made. With 0 seconds nothing runs. Needs playwright-core (NODE_PATH) and a chromium (CHROMIUM, /usr/bin/chromium).
const fs = require('fs');
const { chromium } = require('playwright-core');

const [url, picture, seconds, ...files] = process.argv.slice(2);
const PATIENCE = 900000; // milliseconds that a busy machine may take to load the frontend
const report = { errors: [], loaded: [], status: 'not run', message: '', outputs: {} };
// no dialogs of a first start; text at any scale; all nodes on the canvas
const settings = {
  'Comfy.TutorialCompleted': true,
  'Comfy.Minimap.Visible': false,
  'Comfy.VueNodes.Enabled': false,
  'LiteGraph.Canvas.MinFontSizeForLOD': 0,
};

/** Runs in the page: loads a graph and tells what became of it. */
async function load(saved) {
  const parts = [saved, ...((saved.definitions ?? {}).subgraphs ?? [])];
  const own = new Set(parts.slice(1).map((part) => part.id));
  const types = parts.flatMap((part) => part.nodes.map((node) => node.type));
  const missing = types.filter((type) => !(type in LiteGraph.registered_node_types) && !own.has(type));
  await app.loadGraphData(structuredClone(saved), true, true, null);
  await new Promise((done) => setTimeout(done, 1000));
  const graph = app.rootGraph ?? app.graph;
  const widgets = {};
  for (const node of graph.nodes) {
    widgets[node.id] = (node.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.value);
  }
  return { missing, nodes: graph.nodes.length, links: graph.links.size ?? Object.keys(graph.links).length, widgets };
}

/** Queues the graph as the Run button does and waits for its entry in the history. */
async function run(page) {
  const answer = page.waitForResponse((r) => r.request().method() === 'POST' && r.url().endsWith('/prompt'), { timeout: PATIENCE });
  await page.evaluate(() => { app.queuePrompt(0); });
  const queued = await (await answer).json();
  if (!queued.prompt_id) return { status: 'refused', message: JSON.stringify(queued).slice(0, 2000) };
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await page.waitForTimeout(300)) {
    const entry = (await (await fetch(`${url}/history/${queued.prompt_id}`)).json())[queued.prompt_id];
    if (!entry) continue;
    const failed = entry.status.messages.find((message) => message[0] === 'execution_error');
    return { status: entry.status.status_str, message: failed ? `${failed[1].node_type}: ${failed[1].exception_message}` : '', outputs: entry.outputs };
  }
  return { status: 'timeout', message: `no result within ${seconds} s` };
}

(async () => {
  const kept = await fetch(`${url}/api/settings`, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(settings),
  });
  if (!kept.ok) throw new Error(`settings: ${kept.status}`);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
  try {
    // --disable-api-nodes, by which the tests' server starts, sends a policy that stops textures in 3D viewers; a default
    // server sends none
    const page = await browser.newPage({ viewport: { width: 2200, height: 1240 }, bypassCSP: true });
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => report.errors.push(String(error)));
    page.on('console', (line) => { // absent optional files are no faults
      const kept = line.type() === 'error' && !/Failed to load resource|accessed before initialization/.test(line.text());
      if (kept) report.errors.push(line.text());
    });
    await page.goto(url);
    await page.waitForFunction(
      () => window.app?.canvas && window.app.isGraphReady && window.LiteGraph && !document.getElementById('splash-loader'),
      null, { timeout: PATIENCE },
    );
    await page.waitForTimeout(2000);
    for (const file of files) report.loaded.push(await page.evaluate(load, JSON.parse(fs.readFileSync(file, 'utf8'))));
    if (Number(seconds) > 0 && !report.loaded.at(-1).missing.length) {
      // without a GPU drawing takes a core; an app's canvas is hidden and never drawn
      const paused = await page.evaluate(() => { const before = app.canvas.pause_rendering; app.canvas.pause_rendering = true; return before; });
      Object.assign(report, await run(page));
      await page.evaluate((before) => { app.canvas.pause_rendering = before; }, paused);
    }
    if (!JSON.parse(fs.readFileSync(files.at(-1), 'utf8')).extra?.linearMode) {
      await page.evaluate(() => app.extensionManager.command.execute('Comfy.Canvas.FitView'));
    }
    await page.waitForTimeout(3000); // pictures and viewers arrive
    await page.screenshot({ path: picture });
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(report));
})().catch((error) => { console.error(error); process.exit(2); });
