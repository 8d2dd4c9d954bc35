// What can be saved: the answer as JSON, CSV and DICOM, and the selected image as it is on screen.

import { $, element } from "./elements.js";
import { selection } from "./findings.js";
import { request, service } from "./requests.js";
import { studies } from "./study.js";
import { viewer } from "./viewer.js";

const NOTICE = "not for clinical use";

function save(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The answers that there are, by study. */
const answers = () => Object.values(studies).filter((study) => study.prediction).map((study) => [study.name, study.prediction]);

export function saveJson() {
  const plain = ({ mask, overlay, ...rest }) => rest;
  const all = Object.fromEntries(answers().map(([name, prediction]) => [name, plain(prediction)]));
  const content = all.prior ? { ...all.current, prior: all.prior } : all.current;
  save("findings.json", new Blob([`${JSON.stringify(content, null, 2)}\n`], { type: "application/json" }));
}

/** A cell of a CSV; text that a spreadsheet would compute gets an apostrophe in front (mrm.system.spreadsheet_cells). */
export function quoted(value) {
  const text = String(value ?? "");
  const computed = /^'*(\s*[-=+@＝＋－＠]|[\t\r\n])/.test(text) && !/^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$/.test(text);
  return `"${computed ? "'" : ""}${text.replaceAll('"', '""')}"`;
}

export function saveCsv() {
  const lines = answers().flatMap(([study, prediction]) => prediction.findings.map((f) => [
    quoted(prediction.model), study, prediction.images, quoted(f.finding), f.probability, f.threshold ?? "",
    f.decision === null ? "" : Number(f.decision), quoted(NOTICE),
  ].join(",")));
  const text = ["model,study,images,finding,probability,threshold,decision,notice", ...lines, ""].join("\n");
  save("findings.csv", new Blob([text], { type: "text/csv" }));
}

/** The answer about the current study as a DICOM object: a structured report, or from a segmenter a segmentation. */
export async function saveDicom() {
  const { current } = studies;
  const image = current.used.map((tile) => tile.file);
  const blob = await request("/dicom", { image, pool: $("pool").value }, { signal: current.stops.answer.signal, as: "blob" });
  save(current.mask ? "outlines.seg.dcm" : "findings.sr.dcm", blob);
}

/** The visible part of the selected image, with a line below that says what it is. */
export function savePng() {
  const { canvas, visible, study } = viewer.active;
  const [left, top, width, height] = visible;
  const strip = Math.max(28, Math.round(width / 26));
  const copy = element("canvas", { width, height: height + strip });
  const context = copy.getContext("2d");
  context.fillRect(0, 0, copy.width, copy.height);
  context.drawImage(canvas, left, top, width, height, 0, 0, width, height);
  context.fillStyle = "#fff";
  context.font = `${Math.round(strip * 0.5)}px sans-serif`;
  context.textBaseline = "middle";
  const details = selection.finding ? [selection.finding, study.mask ? "outline" : $("method").value] : [];
  context.fillText([NOTICE.toUpperCase(), service.about.model, ...details].join("  ·  "), strip * 0.4, height + strip / 2, width - strip);
  copy.toBlob((blob) => save("radiograph.png", blob), "image/png");
}
