// What a user does: filters, heads of columns, rows, keys; and the part of the address after "#", which keeps it.
let writing = 0;
const narrow = matchMedia("(max-width: 60rem)");  // the panel covers the table

function openRow(row, at = null, focus = true) {
  cursor = row;
  if (row.position >= 0) moveTo(row.position, false);
  showDetail(row, at);
  renderRows();  // the table became narrower
  get("list").inert = narrow.matches;
  if (focus && narrow.matches) get("detail-name").focus();
  rememberState();
}
function closeRow() {
  if (!open) return;
  hideDetail();
  get("list").inert = false;
  renderRows();
  if (cursor?.position >= 0) moveTo(cursor.position);
  rememberState();
}
function step(by) {
  const next = cursor && cursor.position >= 0 ? cursor.position + by : 0;
  if (next < 0 || next >= visible.length) return;
  moveTo(next, !(open && narrow.matches));
  if (open) openRow(cursor, null, false);
}

function rememberState() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const state = new URLSearchParams();
    for (const id of FILTERS) if (get(id).value) state.set(id, get(id).value);
    if (open) state.set("file", open.name);
    if (open && position) state.set("t", position.toFixed(2));
    // A file's page may be replaced only by itself; Chromium allows that for another fragment.
    history.replaceState(null, "", `#${state}`);
  }, 150);
}
function recallState() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const id of FILTERS) get(id).value = state.get(id) ?? "";
  applyFilters();
  const row = state.has("file") && rows.find(one => one.name === state.get("file"));
  if (row) openRow(row, state.has("t") ? Number(state.get("t")) || 0 : null, false);
  else if (open) closeRow();
}
function setFilter(id, value) {
  get(id).value = value;
  filtersChanged();
}
function filtersChanged() {
  applyFilters();
  if (open) {
    get("previous").disabled = open.position <= 0;
    get("next").disabled = open.position === visible.length - 1;
  }
  rememberState();
}

function buildHead() {
  const line = make("tr");
  const choices = [["", "worst first"]];
  for (const column of COLUMNS) {
    const head = make("th", `${column.kind ?? ""} col-${column.key}`), button = make("button", "", column.head);
    head.scope = "col";
    head.dataset.key = column.key;
    button.type = "button";
    // Names begin with the first of the alphabet, numbers with the greatest.
    const [once, twice] = column.number ? [`-${column.key}`, column.key] : [column.key, `-${column.key}`];
    button.addEventListener("click", () => setFilter("order", order === once ? twice : once));
    head.append(button);
    line.append(head);
    choices.push([column.key, `${column.head} ↑`], [`-${column.key}`, `${column.head} ↓`]);
  }
  table.tHead.append(line);
  get("order").append(...choices.map(([value, text]) => new Option(text, value)));
}
buildHead();
table.classList.add(frameTask ? "frame-task" : "clip-task");
get("filters").addEventListener("input", filtersChanged);
get("filters").addEventListener("submit", event => event.preventDefault());
get("filters").addEventListener("reset", () => setTimeout(filtersChanged));
get("download").addEventListener("click", downloadCsv);
for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => {
    const {filter, value} = button.dataset;
    setFilter(filter, get(filter).value === value ? "" : value);
  });
}
body.addEventListener("click", event => {
  const line = event.target.closest("tr");
  if (line && !getSelection().toString()) openRow(visible[Number(line.dataset.position)]);
});
get("close").addEventListener("click", closeRow);
get("previous").addEventListener("click", () => step(-1));
get("next").addEventListener("click", () => step(1));
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target, typing = target.matches("input, select"), inList = body.contains(target);
  if (event.key === "Escape") {
    if (typing) target.blur();
    else closeRow();
    return;
  }
  if (typing) return;
  const by = {j: 1, k: -1, ArrowDown: 1, ArrowUp: -1}[event.key];
  if (by && !(event.key.startsWith("Arrow") && target.matches("video, [role=slider]"))) step(by);
  else if (event.key === "Enter" && cursor && !target.closest("button, a, video")) openRow(cursor);
  else if (event.key === " " && open && !target.closest("a, video, summary, button") || event.key === " " && open && inList) {
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  } else return;
  event.preventDefault();
});
addEventListener("scroll", () => requestAnimationFrame(() => renderRows()), {passive: true});
addEventListener("resize", () => renderRows());
addEventListener("hashchange", recallState);
for (const [event, on] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    printing = on;  // all rows, without pictures
    renderAnew();
  });
}
narrow.addEventListener("change", () => { get("list").inert = Boolean(open) && narrow.matches; });
const oneColumn = matchMedia("(max-width: 42rem)");
const foldFilters = () => { get("more").open = !oneColumn.matches; };
oneColumn.addEventListener("change", foldFilters);
foldFilters();
recallState();
