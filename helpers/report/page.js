"use strict";
// All the page knows lies in #data; OpenLayers (ol) stands above this script. Nothing is fetched from anywhere.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const N = D.tiles.row.length, TILE = D.tile_m;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const probabilities = D.tiles.probabilities.map(bytes);   // of the two years: N x classes, in 255ths
const index = new Map(Array.from({length: N}, (_, i) => [D.tiles.row[i] + " " + D.tiles.col[i], i]));
const tileAt = (row, col) => index.get(row + " " + col);
const nameOf = i => D.prefix + String(D.tiles.row[i]).padStart(5, "0") + "-" + String(D.tiles.col[i]).padStart(5, "0");
const percent = p => (100 * p).toFixed(0) + " %";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- pictures: a pyramid whose finest level has a picture for each tile

const top_m = (D.grid.top_row + 1) * TILE, left_m = D.grid.left_col * TILE;
const extent = [left_m, top_m - D.grid.height * TILE, left_m + D.grid.width * TILE, top_m];
const projection = new ol.proj.Projection({code: D.crs, units: "m", extent: extent});
const finest = D.pictures.levels - 1;
const tileGrid = new ol.tilegrid.TileGrid({
  extent: extent, origin: [left_m, top_m], tileSize: D.pictures.px,
  resolutions: Array.from({length: D.pictures.levels}, (_, z) => TILE / D.pictures.px * 2 ** (finest - z)),
});

function picture(year, z, x, y) {
  const known = D.pictures.names[year], key = z + "-" + x + "-" + y;
  if (D.pictures.inside) return key in known ? "data:image/webp;base64," + known[key] : undefined;
  return D.pictures.folder + "/" + year + "/" + z + "/" + x + "-" + y + ".webp";
}

function imagery(year) {
  return new ol.layer.Tile({preload: 1, source: new ol.source.TileImage({
    projection: projection, tileGrid: tileGrid, transition: 0,
    tileUrlFunction: ([z, x, y]) => inside(z, x, y) ? picture(year, z, x, y) : undefined,
  })});
}

function inside(z, x, y) {
  const side = 2 ** (finest - z);
  return x >= 0 && y >= 0 && x * side < D.grid.width && y * side < D.grid.height;
}

// ---- areas: a colour, and a pattern that says the same without colour, for each tile

const CELL = N > 20000 ? 4 : N > 3000 ? 8 : 24;   // pixels that a tile takes on the canvas of a layer

function pattern(context, x, y, size, kind) {
  context.strokeStyle = context.fillStyle = "rgba(20, 26, 32, 0.75)";
  context.lineWidth = size > 8 ? 1.5 : 1;
  context.beginPath();
  if (kind === "lines") { context.moveTo(x, y + size); context.lineTo(x + size, y); context.stroke(); }
  if (kind === "cross") {
    context.moveTo(x, y + size); context.lineTo(x + size, y); context.moveTo(x, y); context.lineTo(x + size, y + size);
    context.stroke();
  }
  if (kind === "dot") context.fillRect(x + size / 2 - 1, y + size / 2 - 1, 2, 2);
  if (kind === "bar") { context.moveTo(x, y + size / 2); context.lineTo(x + size, y + size / 2); context.stroke(); }
  if (kind === "post") { context.moveTo(x + size / 2, y); context.lineTo(x + size / 2, y + size); context.stroke(); }
}

function painted(look) {
  const canvas = element("canvas", {width: D.grid.width * CELL, height: D.grid.height * CELL});
  const context = canvas.getContext("2d");
  for (let i = 0; i < N; i++) {
    const {colour, mark} = look(i);
    if (!colour) continue;
    const x = (D.tiles.col[i] - D.grid.left_col) * CELL, y = (D.grid.top_row - D.tiles.row[i]) * CELL;
    context.fillStyle = colour;
    context.fillRect(x, y, CELL, CELL);
    if (mark && CELL > 4) pattern(context, x, y, CELL, mark);
  }
  return canvas;
}

function area(look) {
  const layer = new ol.layer.Image({visible: false, opacity: 0.7});
  // Painted when first looked at: a large county has many layers and tiles.
  layer.on("change:visible", () => {
    if (!layer.getSource()) layer.setSource(new ol.source.ImageStatic({
      url: painted(look).toDataURL(), imageExtent: extent, projection: projection, interpolate: false}));
  });
  return layer;
}

const NOTHING = {colour: "#ffffff", mark: "cross"};
const groupLook = values => i => values[i] < 0 ? NOTHING : D.groups[values[i]];
const classLook = values => i => values[i] < 0 ? NOTHING : D.classes[values[i]];
const mix = (a, b, t) => a.map((v, k) => Math.round(v + (b[k] - v) * t));
function ramp(stops, value) {
  const at = Math.min(0.9999, Math.max(0, value)) * (stops.length - 1), k = Math.floor(at);
  return "rgb(" + mix(stops[k], stops[k + 1], at - k).join(",") + ")";
}
const rampLook = (values, stops) => i => ({colour: values[i] < 0 ? null : ramp(stops, values[i] / 1000)});

// ---- layers

const [first, second] = D.years;
const years = [imagery(first), imagery(second)];
const outline = new ol.style.Style({stroke: new ol.style.Stroke({color: "#1f2a33", width: 2})});
const vector = (features, style) => new ol.layer.Vector({source: new ol.source.Vector({features: features}), style: style});
const corner = i => [D.tiles.col[i] * TILE, D.tiles.row[i] * TILE];
function square(i) {
  const [x, y] = corner(i);
  return ol.geom.Polygon.fromExtent([x, y, x + TILE, y + TILE]);
}
const boundary = vector(D.boundary.map(ring => new ol.Feature(new ol.geom.LineString(ring))), [
  new ol.style.Style({stroke: new ol.style.Stroke({color: "#ffffffcc", width: 4})}), outline]);
const candidateLayer = vector(D.candidates.map((c, k) => {
  const feature = new ol.Feature(square(c.tile));
  feature.setId(k);
  return feature;
}), [new ol.style.Style({stroke: new ol.style.Stroke({color: "#1f2a33", width: 4})}),
     new ol.style.Style({stroke: new ol.style.Stroke({color: "#ffd23f", width: 2})})]);
const chosen = vector([], [new ol.style.Style({stroke: new ol.style.Stroke({color: "#ffffff", width: 7})}),
                           new ol.style.Style({stroke: new ol.style.Stroke({color: "#1f4e72", width: 4, lineDash: [10, 6]})})]);
const layers = [
  {name: "Pictures " + first, layer: years[0]},
  {name: "Pictures " + second, layer: years[1]},
  {name: "Labels " + D.label_year, layer: area(groupLook(D.tiles.group_label))},
  {name: "Predicted " + first, layer: area(classLook(D.tiles.class_before))},
  {name: "Predicted " + second, layer: area(classLook(D.tiles.class_after))},
  {name: "Change score", layer: area(rampLook(D.tiles.score, D.ramps.score))},
  {name: "Uncertainty " + second, layer: area(rampLook(D.tiles.uncertainty, D.ramps.uncertainty))},
  {name: "Candidates", layer: candidateLayer},
  {name: "County boundary", layer: boundary},
];

const map = new ol.Map({
  target: "map",
  layers: [...layers.map(l => l.layer), chosen],
  controls: [
    new ol.control.Zoom(), new ol.control.ScaleLine(),
    new ol.control.MousePosition({placeholder: D.crs,
      coordinateFormat: ([x, y]) => x.toFixed(0) + " m E, " + y.toFixed(0) + " m N"}),
  ],
  view: new ol.View({projection: projection, minResolution: TILE / D.pictures.px / 8,
    maxResolution: Math.max(D.grid.width, D.grid.height) * TILE / 200, center: ol.extent.getCenter(extent)}),
});
$("map").append(element("div", {class: "north", "aria-hidden": "true"}, "↑ N"));
const whole = () => map.getView().fit(extent, {padding: [20, 20, 20, 20]});
whole();

// The second year is drawn to the right of the swipe only.
years[1].on("prerender", event => {
  const context = event.context, [width, height] = map.getSize(), share = $("swipe").value / 100;
  const at = (x, y) => ol.render.getRenderPixel(event, [x, y]);
  const [a, b, c, d] = [at(width * share, 0), at(width, 0), at(width, height), at(width * share, height)];
  context.save();
  context.beginPath();
  context.moveTo(...a); context.lineTo(...b); context.lineTo(...c); context.lineTo(...d);
  context.closePath();
  context.clip();
});
years[1].on("postrender", event => event.context.restore());
const line = element("div", {"aria-hidden": "true",
  style: "position:absolute;top:0;bottom:0;width:3px;margin-left:-1px;background:#fff;box-shadow:0 0 0 1px #1f2a33;pointer-events:none"});
$("map").append(line);
function swiped() {
  line.style.left = $("swipe").value + "%";
  $("swipe").setAttribute("aria-valuetext", $("swipe").value + " % of the map shows " + first + ", the rest " + second);
  map.render();
}
$("swipe").addEventListener("input", swiped);
$("year-left").textContent = first;
$("year-right").textContent = second;
swiped();

layers.forEach(({name, layer}, k) => {
  const shown = element("input", {type: "checkbox", id: "layer-" + k});
  shown.checked = layer.getVisible();
  shown.addEventListener("change", () => layer.setVisible(shown.checked));
  const opacity = element("input", {type: "range", min: 0, max: 100, value: 100 * layer.getOpacity(), id: "opacity-" + k,
    "aria-label": "Opacity of " + name});
  opacity.addEventListener("input", () => layer.setOpacity(opacity.value / 100));
  $("layers").tBodies[0].append(element("tr", {}, element("td", {}, shown, " ", element("label", {for: "layer-" + k}, name)),
    element("td", {}, opacity)));
});

// ---- legend

function key(look, text) {
  const canvas = element("canvas", {width: 34, height: 22, "aria-hidden": "true"}), context = canvas.getContext("2d");
  context.fillStyle = look.colour;
  context.fillRect(0, 0, 34, 22);
  for (let x = 0; x < 34; x += 8) for (let y = 0; y < 22; y += 8) pattern(context, x, y, 8, look.mark);
  return element("div", {class: "key"}, canvas, text);
}
function scale(stops, low, high, title) {
  const colours = stops.map(stop => "rgb(" + stop.join(",") + ")").join(",");
  return [element("p", {}, title), element("div", {class: "ramp", style: "background:linear-gradient(90deg," + colours + ")"}),
          element("div", {class: "ends"}, element("span", {}, low), element("span", {}, high))];
}
$("legend").append(element("p", {}, "Labels"), ...D.groups.map(g => key(g, g.name)),
  element("p", {}, "Predictions"), ...D.classes.map(c => key(c, c.name)), key(NOTHING, "No prediction"),
  ...scale(D.ramps.score, "0 %", "100 %", "Change score: the chance that a tile is newly developed"),
  ...scale(D.ramps.uncertainty, "sure", "all classes alike", "Uncertainty of the class in " + second));

// ---- a tile

let current = null;   // place in the list of candidates
const rank = new Map(D.candidates.map((c, k) => [c.tile, k]));

function figure(year, i) {
  const x = D.tiles.col[i] - D.grid.left_col, y = D.grid.top_row - D.tiles.row[i];
  return element("figure", {}, element("img", {src: picture(year, finest, x, y) || "data:,", alt: "Tile in " + year}),
                 element("figcaption", {}, String(year)));
}

function choose(i, move) {
  chosen.getSource().clear();
  chosen.getSource().addFeature(new ol.Feature(square(i)));
  const [x, y] = corner(i), centre = [x + TILE / 2, y + TILE / 2], view = map.getView();
  if (move) {
    view.setCenter(centre);
    if (view.getResolution() > TILE / 180) view.setResolution(TILE / 180);
  }
  current = rank.has(i) ? rank.get(i) : null;
  const k = current, n = D.classes.length;
  const body = $("tile");
  body.replaceChildren(element("p", {id: "tile-name", "data-tile": nameOf(i)}, nameOf(i) + " · " + x + " m E, " + y + " m N"),
                       element("div", {class: "pictures"}, figure(first, i), figure(second, i)));
  if (D.tiles.score[i] >= 0)
    body.append(element("p", {}, "Change score ", element("strong", {}, percent(D.tiles.score[i] / 1000)),
                        k === null ? ". Not a candidate." : ". " + D.candidates[k].reason));
  if (k !== null) body.append(element("div", {class: "buttons", role: "group", "aria-label": "Your mark"},
    ...MARKS.map(([letter, mark]) => element("button", {type: "button", "data-mark": mark, onclick: () => setMark(k, mark),
      "aria-pressed": String(marks.get(k) === mark)}, mark + " ", element("kbd", {}, letter)))));
  const table = element("table", {}, element("thead", {}, element("tr", {}, element("th", {scope: "col"}, "Probability of"),
    element("th", {scope: "col"}, String(first)), element("th", {scope: "col"}, String(second)))), element("tbody"));
  const shown = (p, c) => D.tiles[p ? "class_after" : "class_before"][i] < 0 ? "–" : percent(probabilities[p][i * n + c] / 255);
  D.classes.forEach((c, at) => table.tBodies[0].append(element("tr", {}, element("th", {scope: "row"}, c.name),
    element("td", {class: "number"}, shown(0, at)), element("td", {class: "number"}, shown(1, at)))));
  body.append(table, element("p", {}, "Neighbours, as predicted in " + second + ":"));
  const around = element("div", {class: "neighbours"});
  for (const dr of [1, 0, -1]) for (const dc of [-1, 0, 1]) {
    const other = tileAt(D.tiles.row[i] + dr, D.tiles.col[i] + dc);
    const name = other === undefined ? "outside" : (D.classes[D.tiles.class_after[other]] || {name: "none"}).name;
    around.append(other === undefined || other === i ? element("span", {}, name)
      : element("button", {type: "button", onclick: () => choose(other, true)}, name));
  }
  body.append(around);
  for (const button of $("list").querySelectorAll("button")) button.removeAttribute("aria-current");
  if (k !== null) {
    while (shownUpTo <= k) more();
    const button = $("list").children[k].firstChild;
    button.setAttribute("aria-current", "true");
    const list = $("list"), row = button.parentElement;
    list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 2;
  }
}

map.on("singleclick", event => clicked(event.coordinate));
function clicked([x, y]) {
  const i = tileAt(Math.floor(y / TILE), Math.floor(x / TILE));
  if (i !== undefined) choose(i, false);
}

// ---- candidates and marks

const MARKS = [["T", "true"], ["F", "false"], ["U", "unsure"]];
const KEPT = "marks of " + D.run;
const marks = new Map();   // place in the list -> mark
let shownUpTo = 0;
function more() {   // A list of thousands is made in pieces, as it is needed.
  const until = Math.min(D.candidates.length, shownUpTo + 200);
  for (; shownUpTo < until; shownUpTo++) {
    const k = shownUpTo, c = D.candidates[k];
    $("list").append(element("li", {}, element("button", {type: "button", onclick: () => choose(c.tile, true)},
      element("span", {}, "#" + (k + 1)), element("span", {}, percent(c.score)), element("span", {}, c.kind),
      element("strong", {class: "mark"}, marks.get(k) || ""))));
  }
}
$("list").addEventListener("scroll", () => {
  if ($("list").scrollTop + $("list").clientHeight > $("list").scrollHeight - 100) more();
});
function told() {
  $("progress").textContent = D.candidates.length + " tiles that score " + percent(D.listed) + " or more, " + marks.size + " marked. " +
    (told.message || "");
  told.message = "";
}
function setMark(k, mark) {
  if (mark === undefined) marks.delete(k); else marks.set(k, mark);
  if (k < shownUpTo) $("list").children[k].querySelector(".mark").textContent = mark || "";
  for (const button of $("tile").querySelectorAll("[data-mark]"))
    if (k === current) button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
  keep();
  told();
}
function csv() {
  const rows = D.candidates.map((c, k) => [nameOf(c.tile), D.tiles.row[c.tile], D.tiles.col[c.tile], c.score, marks.get(k) || ""]);
  return ["tile_id,row,col,score,mark", ...rows.map(r => r.join(","))].join("\n") + "\n";
}
function keep() {   // So that closing the page loses nothing; a browser may refuse it for a file, and Save remains.
  try { localStorage.setItem(KEPT, csv()); } catch (refused) { /* Save marks does it. */ }
}
function read(text) {
  const [head, ...lines] = text.trim().split(/\r?\n/).map(l => l.split(","));
  const [id, mark] = [head.indexOf("tile_id"), head.indexOf("mark")];
  if (id < 0 || mark < 0) return "Expected a CSV file with the columns tile_id and mark, as Save marks writes it; got: " + head.join(", ").slice(0, 60);
  const places = new Map(D.candidates.map((c, k) => [nameOf(c.tile), k])), known = MARKS.map(m => m[1]);
  let read = 0, left = 0;
  for (const l of lines) {
    if (!l[mark]) continue;
    if (places.has(l[id]) && known.includes(l[mark])) { setMark(places.get(l[id]), l[mark]); read++; } else left++;
  }
  return read + " marks read" + (left ? ", " + left + " lines of other tiles or marks left out." : ".");
}
$("save").addEventListener("click", () => {
  const link = element("a", {href: URL.createObjectURL(new Blob([csv()], {type: "text/csv"})), download: "marks_" + D.county + ".csv"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
$("load").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  if (!$("file").files.length) return;
  told.message = read(await $("file").files[0].text());
  $("file").value = "";
  told();
});
function step(by) {
  if (!D.candidates.length) return;
  const to = current === null ? 0 : (current + by + D.candidates.length) % D.candidates.length;
  choose(D.candidates[to].tile, true);
}
$("next").addEventListener("click", () => step(1));
$("previous").addEventListener("click", () => step(-1));
more();
try { if (localStorage.getItem(KEPT)) read(localStorage.getItem(KEPT)); } catch (refused) { /* as above */ }
told();

// ---- keys

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const pressed = event.key.toLowerCase(), mark = MARKS.find(m => m[0].toLowerCase() === pressed);
  if (pressed === "n") step(1);
  else if (pressed === "p") step(-1);
  else if (mark && current !== null) setMark(current, mark[1]);
  else if (pressed === "[" || pressed === "]") { $("swipe").value = +$("swipe").value + (pressed === "]" ? 5 : -5); swiped(); }
  else if (pressed === "home" && event.target.type !== "range") whole();
  else if (pressed === "enter" && event.target === $("map")) clicked(map.getView().getCenter());
  else return;
  event.preventDefault();
});
$("about").textContent = D.about;
map.once("rendercomplete", () => document.body.dataset.ready = "true");
