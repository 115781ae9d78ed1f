// The panel beside the table: one file, played where it lies, with what was said of it over time.
const MAX_PARTS = 1000;  // listed; the timeline shows all of them
const panel = get("detail"), video = get("video"), timeline = get("timeline");
let open = null, position = 0, pending = null, addresses = [];  // row, seconds, seconds to go to, addresses still to try

const clock = seconds => {
  const tenths = Math.round(seconds * 10), minutes = Math.floor(tenths / 600);
  return `${minutes}:${String((tenths % 600 / 10).toFixed(1)).padStart(4, "0")}`;
};
const span = () => Math.max(open.span, Number.isFinite(video.duration) && video.getAttribute("src") ? video.duration : 0);
const partAt = seconds => open.parts.findLastIndex(part => part.from <= seconds + 1e-3 && seconds < part.to);

function showDetail(row, at = null) {
  const same = open === row;
  open = row;
  panel.hidden = false;
  document.body.classList.add("open");
  if (same) {
    if (at !== null) seek(at);
    return;
  }
  position = at ?? 0;
  pending = at;
  const slash = row.shown.lastIndexOf("/") + 1;
  get("detail-name").textContent = row.shown.slice(slash);
  get("detail-path").textContent = row.shown;
  get("previous").disabled = row.position === 0;
  get("next").disabled = row.position === visible.length - 1;
  get("reason").hidden = !row.reason;
  get("reason").className = row.label === null ? "note alarm" : "note";
  get("reason").textContent = `${row.status}: ${shown(row.reason)}`;
  fillVerdict(row);
  fillFacts(row);
  fillParts(row);
  chooseVersion(row.has("overlays", "mp4") && !canPlayOriginal(row) ? "overlay" : "original");
  drawSpan();
  panel.scrollTop = 0;
}
function hideDetail() {
  open = null;
  panel.hidden = true;
  document.body.classList.remove("open");
  stopVideo();
}

const canPlayOriginal = row => Boolean(row.url) && row.status !== "rejected";
// A path has no bare colon: it is percent-encoded.
const placesOf = row => /^https?:/.test(row.url) ? [row.url] : data.roots.map(root => root + row.url);
function stopVideo() {
  video.pause();
  video.removeAttribute("src");
  video.load();
}
function chooseVersion(version) {
  const overlay = open.has("overlays", "mp4"), original = canPlayOriginal(open);
  get("versions").hidden = !(overlay && original);
  for (const button of get("versions").children) button.setAttribute("aria-pressed", String(button.dataset.version === version));
  get("player").hidden = !(overlay || original);
  note(overlay || original || open.label === null ? "" : open.video
    ? "The file is in an object store, which browsers do not play from. lrcn predict with --overlay writes a version here."
    : "There is no video to this answer: it was made from features.");
  video.removeAttribute("poster");
  video.style.aspectRatio = open.video ? `${open.video[0]} / ${open.video[1]}` : "4 / 3";
  if (open.has("thumbnails", "jpg")) video.poster = `thumbnails/${open.name}.jpg`;
  addresses = version === "overlay" ? [`overlays/${open.name}.mp4`] : original ? placesOf(open) : [];
  if (addresses.length) video.src = addresses.shift();
  else stopVideo();
}
function note(text) {
  get("player-note").textContent = text;
  get("player-note").hidden = !text;
}
function cannotPlay() {
  const codec = open.video ? ` (its video is ${open.video[2]})` : "";
  if (open.has("overlays", "mp4") && !video.currentSrc.includes("/overlays/")) {
    chooseVersion("overlay");
    note(`This browser does not play the file itself${codec}; below is the version with labels drawn in.`);
    return;
  }
  get("player").hidden = true;
  stopVideo();
  drawSpan();
  note(`This browser cannot play the file${codec}, or it is no longer where it was. ` +
    "lrcn predict with --overlay writes a version that browsers play.");
}
video.addEventListener("error", () => {
  if (!open || !video.getAttribute("src")) return;
  if (addresses.length) video.src = addresses.shift();
  else cannotPlay();
});
video.addEventListener("loadedmetadata", () => {
  if (!open) return;
  if (!video.videoWidth) return cannotPlay();  // sound alone: the browser knows the container but not the pictures
  if (pending !== null) video.currentTime = pending;
  pending = null;
  drawSpan();
});
function follow() {
  if (!open) return;
  if (pending === null && video.readyState) showPosition(video.currentTime);
  if (!video.paused && !video.ended) requestAnimationFrame(follow);
}
for (const event of ["play", "seeking", "seeked", "timeupdate", "ended"]) video.addEventListener(event, follow);

function seek(seconds) {
  const end = span();
  seconds = Math.max(0, Math.min(end, seconds));
  if (video.getAttribute("src")) {
    if (video.readyState) video.currentTime = seconds;
    else pending = seconds;
  }
  showPosition(seconds);
  rememberState();
}
function drawSpan() {
  const end = span();
  get("time").hidden = !end;
  if (!end) return;
  timeline.querySelector("svg")?.remove();
  timeline.prepend(drawTimeline(open, end));
  timeline.setAttribute("aria-valuemax", end.toFixed(1));
  get("length").textContent = clock(end);
  showPosition(pending ?? position);
}
function showPosition(seconds) {
  const place = partAt(seconds), part = open.parts[place];
  position = seconds;
  get("playhead").style.left = `${Math.min(1, seconds / (span() || 1)) * 100}%`;
  const what = part ? `${className(part.label)} ${fixed(part.score)}, ${part.sure ? "sure" : "unsure"}` : data.background ?? "no label";
  get("readout").textContent = `${clock(seconds)}  ${what}`;
  timeline.setAttribute("aria-valuenow", seconds.toFixed(1));
  timeline.setAttribute("aria-valuetext", `${seconds.toFixed(1)} seconds, ${what}`);
  const list = get("parts").querySelector("ol");
  list?.querySelector("[aria-current]")?.removeAttribute("aria-current");
  list?.children[place]?.firstChild.setAttribute("aria-current", "true");
}
function seekToPointer(event) {
  const box = timeline.getBoundingClientRect();
  seek((event.clientX - box.left) / box.width * span());
}
timeline.addEventListener("pointerdown", event => {
  timeline.setPointerCapture(event.pointerId);
  seekToPointer(event);
});
timeline.addEventListener("pointermove", event => {
  if (timeline.hasPointerCapture(event.pointerId)) seekToPointer(event);
});
timeline.addEventListener("keydown", event => {
  const step = {ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity}[event.key];
  if (step === undefined) return;
  event.preventDefault();
  seek(position + (Number.isFinite(step) ? step * Math.min(1, span() / 20) : step));
});

function fillVerdict(row) {
  const box = get("verdict");
  box.replaceChildren();
  if (row.label === null) return;
  const score = frameTask ? `${(row.score * 100).toFixed(0)} % of the time` : fixed(row.score);
  box.append(swatch(row.label), make("b", "", className(row.label)), ` ${score} `);
  if (!frameTask) box.append(make("span", row.sure ? "yes" : "no", sureText(row)));
}
function fillFacts(row) {
  const facts = [["Status", row.status]], [width, height, codec, fps] = row.video ?? [];
  if (row.seconds !== null) facts.push(["Looked at", `${fixed(row.seconds, 1)} s, ${row.frames.toLocaleString("en")} frames`]);
  if (codec) facts.push(["Video", `${width} × ${height}, ${codec}${fps ? `, ${fps} frames/s` : ""}`]);
  const list = get("facts");
  list.replaceChildren();
  for (const [name, value] of facts) list.append(make("dt", "", name), make("dd", "", value));
  const links = make("dd");
  if (row.url) links.append(link(placesOf(row)[0], "the file"));
  for (const [folder, ending] of data.outputs) {
    if (folder !== "thumbnails" && row.has(folder, ending)) links.append(link(`${folder}/${row.name}.${ending}`, `${folder} (${ending})`));
  }
  if (links.childElementCount) list.append(make("dt", "", "Open"), links);
}
function link(address, text) {
  const anchor = make("a", "", text);
  anchor.href = address;
  return anchor;
}
function fillParts(row) {
  const box = get("parts");
  box.replaceChildren();
  if (row.scores.length) {
    const scores = make("table", "scores"), lines = make("tbody");
    scores.append(make("caption", "", frameTask ? "Share of the time" : "Probability of each class"), lines);
    for (let at = 0; at < row.scores.length; at += 2) {
      const [label, value] = [row.scores[at], row.scores[at + 1]];
      const line = make("tr"), name = make("th"), bar = make("td", "scale"), filled = make("span");
      name.scope = "row";
      name.append(swatch(label), className(label));
      filled.style.width = `${value * 100}%`;
      filled.style.background = color(label);
      bar.append(filled);
      line.append(name, bar, make("td", "", fixed(value)));
      lines.append(line);
    }
    box.append(scores);
    const left = data.classes.length - row.scores.length / 2;
    if (left) box.append(make("p", "more", `${left} less likely classes are in predictions.jsonl.`));
  }
  if (row.parts.length > 1 || (frameTask && row.parts.length)) {
    box.append(make("h3", "", frameTask ? `${row.parts.length} segments` : `${row.parts.length} windows`));
    const list = make("ol");
    for (const part of row.parts.slice(0, MAX_PARTS)) {
      const button = make("button"), item = make("li");
      button.type = "button";
      button.append(swatch(part.label), make("b", "", className(part.label)), make("span", "", `${clock(part.start)} – ${clock(part.end)}`),
        make("span", part.sure ? "yes" : "no", fixed(part.score)));
      button.addEventListener("click", () => seek(part.start));
      item.append(button);
      list.append(item);
    }
    box.append(list);
    const left = row.parts.length - MAX_PARTS;
    if (left > 0) box.append(make("p", "more", `${left.toLocaleString("en")} more are in segments.csv.`));
  }
}
for (const button of get("versions").children) {
  button.addEventListener("click", () => {
    const playing = !video.paused;
    pending = position;
    chooseVersion(button.dataset.version);
    if (playing) video.play().catch(() => {});
  });
}
