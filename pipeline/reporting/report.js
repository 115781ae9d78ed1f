// Tables sort by the buttons in their heads, with the mouse or the keyboard; without this they are only less handy.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column], number = cell.querySelector("data");
    return number ? parseFloat(number.value) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? 1 : -1;  // a dash is the least
    return a.localeCompare(b);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    // Numbers begin with the greatest, names with the first of the alphabet.
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : column > 0;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
    rows.forEach(row => body.append(row));
  }));
}
// A number says where it was taken from.
document.querySelectorAll("data").forEach(number => {
  number.title = `${number.value} (${number.dataset.source}: ${number.dataset.key})`;
});
// What is folded away is printed too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(fold => fold.open = true));
