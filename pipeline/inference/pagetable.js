"use strict";
// The table: filters, order, and only those rows in the page that can be seen. All text goes in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};
// Bytes that are no UTF-8 came as lone surrogates; control and direction characters could hide what a name is.
const shown = text => text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, letter => {
  const code = letter.codePointAt(0);
  if (code >= 0xdc80 && code <= 0xdcff) return `\\x${(code - 0xdc00).toString(16)}`;
  return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[letter] ?? `\\u{${code.toString(16)}}`;
});
const COLORS = ["#3a7fc4", "#d9822b", "#2a9d78", "#b85fa0", "#c9a227", "#6f5fc4", "#46b0c9", "#9a6a48", "#7fae3b", "#d3718c"];
const colored = data.classes.filter(name => name !== data.background);
const color = label => {  // as in the report of the experiment: ten chosen ones, then hues by the golden angle
  const place = colored.indexOf(data.classes[label]);
  if (place < 0) return "#8a939b";
  return COLORS[place] ?? `hsl(${place * 222.5 % 360} 55% ${[46, 58, 52][place % 3]}%)`;
};
const frameTask = data.task === "frame";
const rows = data.rows.map((values, rank) => {
  const row = {rank, position: -1};
  data.fields.forEach((field, place) => { row[field] = values[place]; });
  row.shown = shown(row.path);
  row.text = row.shown.toLowerCase();
  row.parts = [];
  for (let at = 0; at < row.segments.length; at += 5) {
    const [start, end, label, score, sure] = row.segments.slice(at, at + 5);
    row.parts.push({start, end, label, score, sure});
  }
  row.parts.forEach((part, place) => {
    // Windows overlap: each is shown up to the middle of what it shares with the next.
    part.from = Math.max(part.start, (part.start + (row.parts[place - 1]?.end ?? 0)) / 2);
    part.to = Math.min(part.end, (part.end + (row.parts[place + 1]?.start ?? Infinity)) / 2);
  });
  row.span = Math.max(row.seconds ?? 0, row.parts.at(-1)?.end ?? 0);
  row.has = (folder, ending) => row.outputs >> data.outputs.findIndex(([a, b]) => a === folder && b === ending) & 1;
  return row;
});
// The folder that holds all files is not repeated in every row.
const common = rows.map(row => row.shown.split("/").slice(0, -1)).reduce((one, other) => {
  const end = one.findIndex((name, place) => name !== other[place]);
  return end < 0 ? one : one.slice(0, end);
}, rows[0]?.shown.split("/").slice(0, -1) ?? []).map(name => `${name}/`).join("");
const className = label => label === null ? "" : data.classes[label];
const fixed = (value, digits = 3) => value === null ? "" : value.toFixed(digits);
const swatch = label => {
  const box = make("i", "swatch");
  box.style.background = color(label);
  return box;
};

// One path for each label, sure or not: thousands of segments are as quick as ten.
function drawTimeline(row, span) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${span || 1} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const paths = new Map();
  for (const part of row.parts) {
    const key = `${part.label} ${part.sure}`;
    paths.set(key, (paths.get(key) ?? "") + `M${part.from.toFixed(3)} 0V1H${part.to.toFixed(3)}V0Z`);
  }
  for (const [key, shape] of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", shape);
    path.setAttribute("fill", color(Number(key.split(" ")[0])));
    if (key.endsWith("0") && data.threshold !== null) path.setAttribute("opacity", "0.45");
    svg.append(path);
  }
  return svg;
}

let printing = false;
function fillFile(cell, row) {
  const box = make("div", "file"), text = make("div"), slash = row.shown.lastIndexOf("/") + 1;
  if (row.has("thumbnails", "jpg") && !printing) {
    const picture = make("img");
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `thumbnails/${row.name}.jpg`;
    picture.addEventListener("error", () => picture.replaceWith(make("span", "no-picture")));
    box.append(picture);
  } else box.append(make("span", "no-picture"));
  const button = make("button", "", row.shown.slice(slash));
  button.type = "button";
  text.append(button, make("small", "", row.shown.slice(common.length, slash)));
  text.title = row.shown;
  box.append(text);
  cell.append(box);
}
function fillLabel(cell, row) {
  if (row.label === null) {
    cell.append(make("span", "why", shown(row.reason)));
    cell.title = shown(row.reason);
  } else {
    const name = make("span", "label");
    name.append(swatch(row.label), className(row.label));
    cell.append(name);
    cell.title = className(row.label);
  }
  if (row.status !== "ok") cell.append(make("span", `status narrow ${row.status}`, row.status));
}
function fillScore(cell, value, sure) {
  if (value === null) return;
  const bar = make("span", "bar"), filled = make("span", sure ? "" : "no");
  filled.style.width = `${value * 100}%`;
  bar.append(filled);
  cell.append(fixed(value), bar);
}
function fillTimeline(cell, row) {
  if (row.parts.length) cell.append(drawTimeline(row, row.span));
}
const sureText = row => {
  if (row.sure === null) return "";
  if (!frameTask) return row.sure ? "sure" : "unsure";
  return row.parts.length ? `${row.parts.filter(part => part.sure).length} of ${row.parts.length}` : "–";
};
const ALL_COLUMNS = [
  {key: "path", head: "file", kind: "text", value: row => row.shown, fill: fillFile},
  {key: "status", head: "status", kind: "text", value: row => row.status,
    fill: (cell, row) => cell.append(make("span", `status ${row.status}`, row.status))},
  {key: "label", head: frameTask ? "mostly" : "label", kind: "text", value: row => className(row.label), fill: fillLabel},
  {key: "segments", head: "timeline", kind: "text", value: row => row.parts.length, fill: fillTimeline, number: true,
    needless: !frameTask && rows.every(row => row.parts.length < 2)},
  {key: "score", head: frameTask ? "share of time" : "score", value: row => row.score, number: true,
    fill: (cell, row) => frameTask ? cell.append(fixed(row.score)) : fillScore(cell, row.score, row.sure)},
  {key: "confidence", head: "least sure", value: row => row.confidence, number: true, needless: !frameTask,
    fill: (cell, row) => fillScore(cell, row.confidence, row.sure)},
  {key: "sure", head: frameTask ? "segments sure" : "sure", kind: "text", value: row => row.sure === null ? null : Number(row.sure),
    fill: (cell, row) => cell.append(make("span", row.sure ? "yes" : "no", sureText(row)))},
  {key: "runner_up", head: "runner-up", kind: "text", needless: frameTask, value: row => className(row.runner_up),
    fill: (cell, row) => cell.append(className(row.runner_up), make("small", "", fixed(row.runner_up_score)))},
  {key: "seconds", head: "seconds", value: row => row.seconds, number: true, fill: (cell, row) => cell.append(fixed(row.seconds, 1))},
  {key: "frames", head: "frames", value: row => row.frames || null, number: true,
    fill: (cell, row) => cell.append(row.frames ? row.frames.toLocaleString("en") : "")},
];
const COLUMNS = ALL_COLUMNS.filter(column => !column.needless);

const FILTERS = ["q", "status", "label", "sure", "min", "max", "order"];
let order = "", visible = [], cursor = null;  // order: a column's key, with a minus for falling; cursor: a row
const collator = new Intl.Collator("en", {numeric: true});
const onPage = new Map();  // position to table row
const table = get("table"), body = get("rows"), [above, below] = table.querySelectorAll(".space td");
let rowHeight = 0;

function compareBy(column, down) {
  return (a, b) => {
    const one = column.value(a), other = column.value(b);
    const missing = value => value === null || value === "";
    if (missing(one) || missing(other)) return missing(one) - missing(other) || a.rank - b.rank;  // at the end both ways
    const result = column.number || column.key === "sure" ? one - other : collator.compare(one, other);
    return (down ? -result : result) || a.rank - b.rank;
  };
}
function applyFilters() {
  const wanted = Object.fromEntries(FILTERS.map(id => [id, get(id).value]));
  const label = data.classes.indexOf(wanted.label), words = wanted.q.toLowerCase();
  const least = wanted.min === "" ? null : Number(wanted.min), most = wanted.max === "" ? null : Number(wanted.max);
  visible = rows.filter(row =>
    (!wanted.q || row.text.includes(words)) &&
    (!wanted.status || row.status === wanted.status) &&
    (!wanted.label || row.label === label || (frameTask && row.parts.some(part => part.label === label))) &&
    (!wanted.sure || row.sure === (wanted.sure === "yes")) &&
    (least === null || (row.confidence !== null && row.confidence >= least)) &&
    (most === null || (row.confidence !== null && row.confidence <= most)));
  order = wanted.order;
  const column = COLUMNS.find(one => one.key === order.replace("-", ""));
  if (column) visible.sort(compareBy(column, order.startsWith("-")));
  rows.forEach(row => { row.position = -1; });
  visible.forEach((row, position) => { row.position = position; });
  for (const head of table.tHead.rows[0].cells) {
    if (column && head.dataset.key === column.key) head.setAttribute("aria-sort", order.startsWith("-") ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.setAttribute("aria-pressed", String(get(button.dataset.filter).value === button.dataset.value));
  }
  const all = rows.length.toLocaleString("en");
  const files = `${all} file${rows.length === 1 ? "" : "s"}`;
  get("count").textContent = visible.length === rows.length ? files : `${visible.length.toLocaleString("en")} of ${files}`;
  get("none").hidden = visible.length > 0 || !rows.length;
  table.setAttribute("aria-rowcount", visible.length + 1);
  renderAnew();
}
function renderAnew() {
  onPage.forEach(line => line.remove());
  onPage.clear();
  renderRows();
}
function makeRow(row, position) {
  const line = make("tr");
  line.setAttribute("aria-rowindex", position + 2);
  line.dataset.position = position;
  for (const column of COLUMNS) {
    const cell = make(column.key === "path" ? "th" : "td", `${column.kind ?? ""} col-${column.key}`);
    if (column.key === "path") cell.scope = "row";
    column.fill(cell, row);
    line.append(cell);
  }
  return line;
}
function renderRows() {
  const top = above.getBoundingClientRect().top, height = rowHeight || 60;
  let first = Math.max(0, Math.floor(-top / height) - 8);
  let last = Math.min(visible.length, Math.ceil((innerHeight - top) / height) + 8);
  if (printing) [first, last] = [0, visible.length];
  first = Math.min(first, last);
  for (const [position, line] of onPage) {
    if (position < first || position >= last) {
      line.remove();
      onPage.delete(position);
    }
  }
  let before = null;
  for (let position = last - 1; position >= first; position--) {
    if (!onPage.has(position)) {
      const line = makeRow(visible[position], position);
      onPage.set(position, line);
      body.insertBefore(line, before);
    }
    before = onPage.get(position);
    if (visible[position] === cursor) before.setAttribute("aria-current", "true");
    else before.removeAttribute("aria-current");
  }
  above.style.height = `${first * height}px`;
  below.style.height = `${(visible.length - last) * height}px`;
  const measured = before?.getBoundingClientRect().height;
  if (measured && Math.abs(measured - height) > 0.01 && !printing) {
    rowHeight = measured;
    renderRows();
  }
}
function moveTo(position, focus = true) {
  if (!visible.length) return;
  position = Math.max(0, Math.min(visible.length - 1, position));
  cursor = visible[position];
  const top = above.getBoundingClientRect().top + position * rowHeight, head = table.tHead.getBoundingClientRect().bottom;
  if (top < head) scrollBy({top: top - head, behavior: "instant"});
  else if (top + rowHeight > innerHeight) scrollBy({top: top + rowHeight - innerHeight + 8, behavior: "instant"});
  renderRows();
  if (focus) onPage.get(position)?.querySelector("button").focus({preventScroll: true});
}

function downloadCsv() {
  const values = row => ({
    ...row, label: className(row.label), runner_up: className(row.runner_up),
    sure: frameTask || row.sure === null ? "" : row.sure ? "yes" : "no",
  });
  const quoted = value => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const lines = [data.csvColumns, ...visible.map(row => data.csvColumns.map(name => values(row)[name] ?? ""))];
  const text = lines.map(line => line.map(value => quoted(String(value))).join(",") + "\n").join("");
  const encoder = new TextEncoder();  // bytes of names that are no UTF-8 are written as they were
  const pieces = text.split(/([\udc80-\udcff])/u).map((piece, place) =>
    place % 2 ? new Uint8Array([piece.charCodeAt(0) - 0xdc00]) : encoder.encode(piece));
  const link = make("a");
  link.href = URL.createObjectURL(new Blob(pieces, {type: "text/csv"}));
  link.download = "results-filtered.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
