// Opens what a scan wrote in igv.js, in a headless Chromium, and looks whether every call is there.
//
//   npm install igv @gmod/bbi generic-filehandle2 puppeteer-core       (once, in any folder; run there)
//   node .../tools/browser_check.mjs GENOME SCAN REGION [PICTURE.png]
//
// GENOME is the .2bit or a FASTA file of it, SCAN the folder of `helixgrad scan`, REGION a part of it as chrX:1-2000. Every track is loaded
// twice, as bedGraph and as bigWig, and the BED file once; what igv.js reads in REGION is compared with the lines of the bedGraph and BED
// files, and so is what @gmod/bbi (JBrowse's reader) reads from bigWig. $CHROMIUM is the browser (default /usr/bin/chromium).
import { createReadStream, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";

const [genome, scan, region, picture] = process.argv.slice(2);
if (!region) {
  console.error("usage: node browser_check.mjs GENOME SCAN REGION [PICTURE.png]");
  process.exit(2);
}
const fromHere = createRequire(join(process.cwd(), "package.json"));
const puppeteer = fromHere("puppeteer-core");
const { BigWig } = fromHere("@gmod/bbi");
const { LocalFile } = fromHere("generic-filehandle2");
const [, chromosome, first, last] = region.replaceAll(",", "").match(/^(.+):(\d+)-(\d+)$/);
const [start, end] = [Number(first) - 1, Number(last)];

const TRACKS = ["donor_plus", "donor_minus", "acceptor_plus", "acceptor_minus"];
const files = { "/igv.js": fromHere.resolve("igv").replace(/[^/]*$/, "igv.js"), ["/" + basename(genome)]: resolve(genome) };
for (const name of [...TRACKS.flatMap((track) => [`${track}.bedgraph`, `${track}.bw`]), "sites.bed"]) files["/" + name] = join(scan, name);

// What a web server of a lab does: whole files, and parts of them (bigWig and .2bit are read in parts).
const server = createServer((request, response) => {
  const path = files[new URL(request.url, "http://localhost").pathname];
  if (!path) {
    response.writeHead(request.url === "/" ? 200 : 204, { "Content-Type": "text/html" });
    return response.end('<!doctype html><div id="igv"></div><script src="/igv.js"></script>');
  }
  const size = statSync(path).size;
  const range = request.headers.range?.match(/bytes=(\d+)-(\d*)/);
  const [from, to] = range ? [Number(range[1]), Math.min(Number(range[2] || size - 1), size - 1)] : [0, size - 1];
  response.writeHead(range ? 206 : 200, { "Content-Length": to - from + 1, "Content-Range": `bytes ${from}-${to}/${size}` });
  createReadStream(path, { start: from, end: to }).pipe(response);
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const page = await browser.newPage();
await page.setViewport({ width: 1400, height: 1100 });
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
const reference = genome.endsWith(".2bit") ? { twoBitURL: basename(genome) } : { fastaURL: basename(genome), indexed: false };
const read = await page.evaluate(
  async (reference, tracks, region, chromosome, start, end) => {
    const track = (url, more) => ({ name: url, url, autoHeight: false, ...more });
    const wig = (name, format) => track(`${name}.${format}`, { type: "wig", height: 60, min: 0, max: 1 });
    const igvTracks = [track("sites.bed", { displayMode: "EXPANDED", height: 90 })];
    for (const name of tracks) igvTracks.push(wig(name, "bedgraph"), wig(name, "bw"));
    const options = { loadDefaultGenomes: false, reference: { id: "genome", ...reference }, locus: region, tracks: igvTracks };
    const browser = await igv.createBrowser(document.getElementById("igv"), options);
    const read = { bases: await browser.genome.getSequence(chromosome, start, start + 20) };
    for (const { track } of browser.trackViews) {
      if (!track.url || !track.getFeatures) continue;
      const features = await track.getFeatures(chromosome, start, end, 1);
      read[track.url] = features.map(({ start, end, value, name, strand }) => [start, end, track.type === "wig" ? value : name, strand]);
    }
    return read;
  },
  reference, TRACKS, region, chromosome, start, end,
);
if (picture) await page.screenshot({ path: picture });
await browser.close();
server.close();

let failures = 0;
function compare(what, found, expected) {
  // bigWig has 32-bit floats.
  const text = (rows) => JSON.stringify(rows.map((row) => row.map((value) => (typeof value === "number" ? Math.fround(value) : value))));
  const inside = (rows) => rows.filter(([from, to]) => from < end && start < to);
  const same = text(inside(found)) === text(inside(expected));
  failures += same ? 0 : 1;
  console.log(`${same ? "ok    " : "FAILED"}  ${what}: ${inside(found).length} of ${inside(expected).length} calls`);
}
const rows = (name) => readFileSync(join(scan, name), "utf8").split("\n").map((line) => line.split("\t")).filter(([name]) => name === chromosome);
compare("igv.js, sites.bed", read["sites.bed"] ?? [], rows("sites.bed").map(([, from, to, name, , strand]) => [+from, +to, name, strand]));
for (const track of TRACKS) {
  const expected = rows(`${track}.bedgraph`).map(([, from, to, value]) => [+from, +to, +value, undefined]);
  const found = (name) => (read[name] ?? []).map(([from, to, value]) => [from, to, value, undefined]);
  compare(`igv.js, ${track}.bedgraph`, found(`${track}.bedgraph`), expected);
  compare(`igv.js, ${track}.bw`, found(`${track}.bw`), expected);
  const bigWig = new BigWig({ filehandle: new LocalFile(join(scan, `${track}.bw`)) });
  const features = await bigWig.getFeatures(chromosome, start, end);
  compare(`@gmod/bbi, ${track}.bw`, features.map(({ start, end, score }) => [start, end, score, undefined]), expected);
}
console.log(`igv.js, the genome at ${chromosome}:${start + 1}: ${read.bases}`);
complaints.forEach((complaint) => console.log(`the page complains: ${complaint}`));
process.exit(failures > 0 || complaints.length > 0 || !/^[ACGTN]{20}$/i.test(read.bases ?? "") ? 1 : 0);
