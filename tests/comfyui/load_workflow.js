// Loads a workflow in ComfyUI's own frontend, checks that nothing is lost, runs it, and takes a picture of it.
// usage: node load_workflow.js URL WORKFLOW.json PICTURE.png SECONDS; prints one JSON report, exits with 0 if it was made.
// Needs playwright-core (NODE_PATH) and a chromium (CHROMIUM, /usr/bin/chromium unless given).
const fs = require('fs');
const { chromium } = require('playwright-core');

const [url, file, picture, seconds] = process.argv.slice(2);
const workflow = JSON.parse(fs.readFileSync(file, 'utf8'));
const report = { errors: [], missing: [], nodes: 0, links: 0, widgets: {}, status: 'not run', message: '' };

/** Runs in the page: loads the graph and tells what became of it. */
async function load(saved) {
  const missing = saved.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types)).map((node) => node.type);
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
  const answer = page.waitForResponse((r) => r.request().method() === 'POST' && r.url().endsWith('/prompt'), { timeout: 60000 });
  await page.evaluate(() => { app.queuePrompt(0); });
  const queued = await (await answer).json();
  if (!queued.prompt_id) return { status: 'refused', message: JSON.stringify(queued).slice(0, 2000) };
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await page.waitForTimeout(300)) {
    const entry = (await (await fetch(`${url}/history/${queued.prompt_id}`)).json())[queued.prompt_id];
    if (!entry) continue;
    const failed = entry.status.messages.find((message) => message[0] === 'execution_error');
    return { status: entry.status.status_str, message: failed ? failed[1].exception_message : '', outputs: entry.outputs };
  }
  return { status: 'timeout', message: `no result within ${seconds} s` };
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
  try {
    const page = await browser.newPage({ viewport: { width: 1680, height: 1000 } });
    page.on('pageerror', (error) => report.errors.push(String(error)));
    await page.goto(url);
    await page.waitForFunction(() => window.app?.canvas && window.app.isGraphReady && window.LiteGraph, null, { timeout: 240000 });
    await page.waitForTimeout(2000);
    Object.assign(report, await page.evaluate(load, workflow));
    if (Number(seconds) > 0 && !report.missing.length) Object.assign(report, await run(page));
    await page.waitForTimeout(1500);
    await page.screenshot({ path: picture });
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(report));
})().catch((error) => { console.error(error); process.exit(2); });
