"use strict";
// All data of the page are in #data, and OpenLayers (ol) is in the script above. Nothing comes from another machine.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const N = D.tiles.row.length, TILE = D.tile_m;
const index = new Map(Array.from({length: N}, (_, i) => [D.tiles.row[i] + " " + D.tiles.col[i], i]));
const tileAt = (row, col) => index.get(row + " " + col);
const nameOf = i => D.tiles.id[i];
// No probability is 0 or 1, so none is shown as 0% or 100%.
const percent = p => p >= 0.995 ? ">99%" : p < 0.005 ? "<1%" : (100 * p).toFixed(0) + "%";

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
const projection = new ol.proj.Projection({code: "county", units: "m", extent: extent});
const finest = D.pictures.levels - 1;
const tileGrid = new ol.tilegrid.TileGrid({
  extent: extent, origin: [left_m, top_m], tileSize: D.pictures.px,
  resolutions: Array.from({length: D.pictures.levels}, (_, z) => TILE / D.pictures.px * 2 ** (finest - z)),
});

// The pictures that exist: a county is no rectangle, and there are none beyond it.
const there = Array.from({length: D.pictures.levels}, () => new Set());
for (let i = 0; i < N; i++) {
  let x = D.tiles.col[i] - D.grid.left_col, y = D.grid.top_row - D.tiles.row[i];
  for (let z = finest; z >= 0; z--, x >>= 1, y >>= 1) there[z].add(x + " " + y);
}

function picture(year, z, x, y) {
  const known = D.pictures.names[year], key = z + "-" + x + "-" + y;
  if (D.pictures.inside) return key in known ? "data:image/webp;base64," + known[key] : undefined;
  return encodeURIComponent(D.pictures.folder) + "/" + year + "/" + z + "/" + x + "-" + y + ".webp";
}

function imagery(year) {
  return new ol.layer.Tile({preload: 1, source: new ol.source.TileImage({
    projection: projection, tileGrid: tileGrid, transition: 0,
    tileUrlFunction: ([z, x, y]) => there[z] && there[z].has(x + " " + y) ? picture(year, z, x, y) : undefined,
  })});
}

// ---- areas: a colour, and a pattern for readers who do not see the colour

const SIZE = 12;   // a pattern repeats after so many pixels of the screen, at any zoom

function pattern(kind) {
  const canvas = element("canvas", {width: SIZE, height: SIZE}), context = canvas.getContext("2d"), s = SIZE;
  context.strokeStyle = context.fillStyle = "rgba(20, 26, 32, 0.8)";
  context.lineWidth = 1.6;
  const line = (...ends) => context.stroke(new Path2D("M" + ends.slice(0, 2) + "L" + ends.slice(2)));
  for (const by of [-s, 0, s]) {   // beyond the corners too, so that a line goes on in the next square
    if (kind === "lines" || kind === "cross") line(by - s, s * 2, by + s * 2, -s);
    if (kind === "cross") line(by - s, -s, by + s * 2, s * 2);
  }
  if (kind === "dot") { context.fillRect(1, 1, 3, 3); context.fillRect(1 + s / 2, 1 + s / 2, 3, 3); }
  if (kind === "bar") line(0, s / 2, s, s / 2);
  if (kind === "post") line(s / 2, 0, s / 2, s);
  return context.createPattern(canvas, "repeat");
}
const patterns = {};
const patternOf = kind => patterns[kind] = patterns[kind] || pattern(kind);

// Only tiles in sight are drawn, at the scale of the screen. So patterns are as fine in a large county as in a small one.
function area(look) {
  const looks = new Map();   // look -> its tiles
  for (let i = 0; i < N; i++) {
    const one = look(i);
    if (!one.colour) continue;
    const key = one.colour + one.mark;
    if (!looks.has(key)) looks.set(key, [one, []]);
    looks.get(key)[1].push(i);
  }
  return new ol.source.ImageCanvas({projection: projection, ratio: 1, interpolate: false,
    canvasFunction: (seen, resolution, ratio, size) => {
      const canvas = element("canvas", {width: Math.round(size[0]), height: Math.round(size[1])});
      const context = canvas.getContext("2d"), scale = canvas.width / (seen[2] - seen[0]);
      const px = x => Math.round((x - seen[0]) * scale), py = y => Math.round((seen[3] - y) * scale);
      for (const [{colour, mark}, members] of looks.values()) {
        context.beginPath();
        for (const i of members) {
          const left = px(D.tiles.col[i] * TILE), top = py((D.tiles.row[i] + 1) * TILE);
          const right = px((D.tiles.col[i] + 1) * TILE), bottom = py(D.tiles.row[i] * TILE);
          if (right > 0 && bottom > 0 && left < canvas.width && top < canvas.height)
            context.rect(left, top, Math.max(1, right - left), Math.max(1, bottom - top));
        }
        context.fillStyle = colour;
        context.fill();
        if (mark) { context.fillStyle = patternOf(mark); context.fill(); }
      }
      return canvas;
    }});
}

function areas(look) {
  const layer = new ol.layer.Image({visible: false, opacity: 0.7});
  // The tiles are sorted when the layer is first shown, because a large county has many.
  layer.on("change:visible", () => { if (!layer.getSource()) layer.setSource(area(look)); });
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
// In fifty steps: no eye tells more apart, and all tiles of a step are filled at once.
const rampLook = (values, stops) => i => ({colour: values[i] < 0 ? null : ramp(stops, Math.round(values[i] / 20) / 50)});

// ---- layers

const [first, second] = D.years;
const years = [imagery(first), imagery(second)];
const stroke = (color, width, lineDash) => new ol.style.Style({stroke: new ol.style.Stroke({color, width, lineDash})});
const vector = (features, style) => new ol.layer.Vector({source: new ol.source.Vector({features}), style});
const corner = i => [D.tiles.col[i] * TILE, D.tiles.row[i] * TILE];
function square(i) {
  const [x, y] = corner(i);
  return ol.geom.Polygon.fromExtent([x, y, x + TILE, y + TILE]);
}
const boundary = vector(D.boundary.map(ring => new ol.Feature(new ol.geom.LineString(ring))),
                        [stroke("#ffffffcc", 4), stroke("#1f2a33", 2)]);
// Outlines get thinner with the tiles, because they would hide the tiles of a large county seen as a whole.
const CANDIDATE_COLOUR = "#ffd23f";
function outlined(feature, resolution) {
  const size = TILE / resolution, fill = new ol.style.Fill({color: CANDIDATE_COLOUR});
  return size < 10 ? [new ol.style.Style({fill}), stroke("#1f2a33", 0.5)]
    : [stroke("#1f2a33", Math.min(4, size / 8)), stroke(CANDIDATE_COLOUR, Math.min(2, size / 14))];
}
const candidateLayer = vector(D.listed.slice(0, D.candidates).map(c => new ol.Feature(square(c.tile))), outlined);
const chosen = vector([], [stroke("#ffffff", 7), stroke("#1f4e72", 4, [10, 6])]);
// A mark is a letter on a disc, in the upper left corner of its tile.
const MARKS = [["T", "true", "#0b5fa5", "#ffffff"], ["F", "false", "#ffffff", "#1f2a33"],
               ["U", "unsure", "#ffd23f", "#1f2a33"]];
const signs = Object.fromEntries(MARKS.map(([letter, mark, ground, ink]) => {
  const canvas = element("canvas", {width: 48, height: 48}), context = canvas.getContext("2d");
  Object.assign(context, {fillStyle: ground, lineWidth: 4, font: "bold 32px sans-serif", textAlign: "center"});
  context.arc(24, 24, 21, 0, 7); context.fill(); context.stroke();
  context.fillStyle = ink;
  context.fillText(letter, 24, 35);
  return [mark, canvas];
}));
const marksLayer = vector([], (feature, resolution) => new ol.style.Style({image: new ol.style.Icon(
  {img: signs[feature.get("mark")], scale: Math.min(0.5, Math.max(0.15, TILE / resolution / 96))})}));
const SCORE = D.calibrated ? "Change score" : "Rank by the rule of 2017";
const layers = [
  {name: "Pictures " + first, layer: years[0]},
  {name: "Pictures " + second, layer: years[1]},
  {name: "Labels " + D.label_year, layer: areas(groupLook(D.tiles.group_label))},
  {name: "Predicted " + first, layer: areas(classLook(D.tiles.class_before))},
  {name: "Predicted " + second, layer: areas(classLook(D.tiles.class_after))},
  {name: SCORE, layer: areas(rampLook(D.tiles.score, D.ramps.score))},
  {name: "Uncertainty " + second, layer: areas(rampLook(D.tiles.uncertainty, D.ramps.uncertainty))},
  {name: "Candidates", layer: candidateLayer},
  {name: "County boundary", layer: boundary},
  {name: "Your marks", layer: marksLayer},
];

const map = new ol.Map({
  target: "map",
  layers: [...layers.map(l => l.layer), chosen],
  controls: [new ol.control.Zoom()],
  view: new ol.View({projection: projection, minResolution: TILE / D.pictures.px / 8,
    maxResolution: Math.max(D.grid.width, D.grid.height) * TILE / 200, center: ol.extent.getCenter(extent)}),
});
const bar = element("div"), position = element("div", {id: "position", class: "note"}, D.crs);
const line = element("div", {id: "line", "aria-hidden": "true"});
$("map").append(element("div", {id: "north", class: "note", "aria-hidden": "true"}, "↑ N"),
                element("div", {id: "scale", class: "note"}, bar), position, line);
map.on("pointermove", ({coordinate: [x, y]}) => position.textContent = x.toFixed(0) + " m E, " + y.toFixed(0) + " m N");
function measured() {   // A length of 1, 2 or 5 times a power of ten, at most 110 pixels long.
  const pixel = map.getView().getResolution(), ten = 10 ** Math.floor(Math.log10(110 * pixel));
  const length = ten * [5, 2, 1].find(times => times * ten <= 110 * pixel);
  bar.style.width = length / pixel + "px";
  bar.textContent = length < 1000 ? length + " m" : length / 1000 + " km";
}
map.getView().on("change:resolution", measured);
const whole = () => map.getView().fit(extent, {padding: [20, 20, 20, 20]});
whole();

// The second year is drawn only to the right of the swipe.
years[1].on("prerender", event => {
  const context = event.context, [width, height] = map.getSize(), share = $("swipe").value / 100;
  const at = (x, y) => ol.render.getRenderPixel(event, [x, y]);
  context.save();
  context.beginPath();
  for (const [x, y] of [[share, 0], [1, 0], [1, 1], [share, 1]]) context.lineTo(...at(x * width, y * height));
  context.clip();
});
years[1].on("postrender", event => event.context.restore());
function swipedTo(share) {
  $("swipe").value = share;
  line.style.left = $("swipe").value + "%";
  $("swipe").setAttribute("aria-valuetext", $("swipe").value + " % of the map shows " + first + ", the rest " + second);
  map.render();
}
line.addEventListener("pointerdown", event => line.setPointerCapture(event.pointerId));
line.addEventListener("pointermove", event => {
  const box = $("map").getBoundingClientRect();
  if (line.hasPointerCapture(event.pointerId)) swipedTo(100 * (event.clientX - box.left) / box.width);
});
$("swipe").addEventListener("input", () => swipedTo($("swipe").value));
swipedTo(50);

layers.forEach(({name, layer}, k) => {
  const onchange = event => layer.setVisible(event.target.checked);
  const oninput = event => layer.setOpacity(event.target.value / 100);
  $("layers").tBodies[0].append(element("tr", {}, element("td", {},
    element("input", {type: "checkbox", id: "layer-" + k, checked: layer.getVisible() && "", onchange}), " ",
    element("label", {for: "layer-" + k}, name)), element("td", {},
    element("input", {type: "range", value: 100 * layer.getOpacity(), "aria-label": "Opacity of " + name, oninput}))));
});

// ---- legend

function keyed(draw, text) {
  const canvas = element("canvas", {width: 34, height: 22, "aria-hidden": "true"});
  draw(canvas.getContext("2d"));
  return element("div", {class: "key"}, canvas, text);
}
const key = (look, text) => keyed(context => {
  for (const style of [look.colour, look.mark ? patternOf(look.mark) : "transparent"]) {
    context.fillStyle = style;
    context.fillRect(0, 0, 34, 22);
  }
}, text);
const frame = (strokes, text) => keyed(context => {
  context.fillStyle = "#9aa78f";
  context.fillRect(0, 0, 34, 22);
  for (const [strokeStyle, lineWidth, dash] of strokes) {
    Object.assign(context, {strokeStyle, lineWidth}).setLineDash(dash || []);
    context.strokeRect(6, 5, 22, 12);
  }
}, text);
function scale(stops, low, high, title) {
  const ramp = element("div", {class: "ramp"});
  ramp.style.background = "linear-gradient(90deg," + stops.map(stop => "rgb(" + stop.join(",") + ")").join(",") + ")";
  return [element("p", {}, title), ramp, element("div", {class: "ends"}, element("span", {}, low), element("span", {}, high))];
}
$("legend").append(
  element("p", {}, "Outlines"), frame([["#1f2a33", 4], [CANDIDATE_COLOUR, 2]],
    D.calibrated ? "Candidate: " + percent(D.candidate) + " or more" : "Candidate of the rule of 2017"),
  frame([["#ffffff", 7], ["#1f4e72", 4, [10, 6]]], "Chosen tile"),
  frame([["#ffffff", 4], ["#1f2a33", 2]], "County boundary"),
  element("p", {}, "Your marks"), ...MARKS.map(m => keyed(context => context.drawImage(signs[m[1]], 6, 0, 22, 22), m[1])),
  element("p", {}, "Labels"), ...D.groups.map(g => key(g, g.name)),
  element("p", {}, "Predictions"), ...D.classes.map(c => key(c, c.name)), key(NOTHING, "No prediction"),
  element("p", {}, "To tell patterns apart, zoom in, or look where tiles of one kind lie together."),
  ...scale(D.ramps.score, ...(D.calibrated ? ["0%", "100%"] : ["none", "first"]),
    SCORE + (D.calibrated ? ": " + D.meaning : ", no probability")),
  ...scale(D.ramps.uncertainty, "sure", "all classes equally likely", "Uncertainty of the class in " + second));

// ---- a tile

let tile = null, place = null;   // the chosen tile, and the last chosen position in the list
const rank = new Map(D.listed.map((c, k) => [c.tile, k]));

function figure(year, i) {
  const x = D.tiles.col[i] - D.grid.left_col, y = D.grid.top_row - D.tiles.row[i];
  return element("figure", {}, element("img", {src: picture(year, finest, x, y) || "data:,", alt: "Tile in " + year}),
                 element("figcaption", {}, String(year)));
}

// A tile moves to the middle of the wider side of the swipe. In the middle of the map, the line would cut it in two.
function centre(i) {
  const view = map.getView(), [x, y] = corner(i), share = $("swipe").value / 100;
  if (view.getResolution() > TILE / 180) view.setResolution(TILE / 180);
  const middle = share > 0.5 ? share / 2 : (1 + share) / 2;
  view.setCenter([x + TILE / 2 - (middle - 0.5) * map.getSize()[0] * view.getResolution(), y + TILE / 2]);
}

const chance = k => D.calibrated ? percent(D.listed[k].score) : "";

function choose(i, move) {
  chosen.getSource().clear();
  chosen.getSource().addFeature(new ol.Feature(square(i)));
  if (move) centre(i);
  tile = i;
  if (rank.has(i)) place = rank.get(i);
  const k = rank.has(i) ? place : null, body = $("tile");
  const focused = body.contains(document.activeElement);
  $("tile-name").textContent = nameOf(i);
  $("tile-name").dataset.tile = nameOf(i);
  body.replaceChildren(element("div", {class: "pictures"}, figure(first, i), figure(second, i)));
  // The pressed button was removed, and the keyboard's focus with it.
  if (focused) $("tile-name").focus();
  const said = k === null ? "Not on the list."
    : "#" + (k + 1) + " of " + D.listed.length + (k < D.candidates ? "" : ", not a candidate") + ".";
  const degrees = element("span", {}, D.centres.map(values => values[i].toFixed(5)).join(", "));
  const scored = D.calibrated && D.tiles.score[i] >= 0
    ? ["Change score ", element("strong", {}, percent(D.tiles.score[i] / 1000)), ". "] : [];
  body.append(element("p", {}, ...scored, said + " " + (k === null ? "" : D.listed[k].reason)),
              element("p", {}, "Latitude and longitude of its centre:", element("br"), degrees, " ",
                      element("button", {type: "button", onclick: event => copy(degrees, event.target)}, "Copy")),
              element("p", {}, corner(i).map((m, at) => m + TILE / 2 + " m " + "EN"[at]).join(", ") + " (" + D.crs + ")"));
  $("said").textContent = nameOf(i) + ". " + body.querySelector("p").textContent;
  marked();
  const shown = (p, at) => D.tiles[p ? "class_after" : "class_before"][i] < 0 ? "–"
    : percent(D.tiles.probabilities[p][i][at] / 1000);
  const row = (tag, scope, name, ...values) => element("tr", {}, element("th", {scope}, name),
    ...values.map(value => element(tag, {scope: tag === "th" && "col"}, String(value))));
  body.append(element("table", {}, element("thead", {}, row("th", "col", "Probability of", first, second)),
    element("tbody", {}, ...D.classes.map((c, at) => row("td", "row", c.name, shown(0, at), shown(1, at))))),
    element("p", {}, "Neighbours, as predicted in " + second + ":"));
  const around = element("div", {class: "neighbours"});
  for (const dr of [1, 0, -1]) for (const dc of [-1, 0, 1]) {
    const other = tileAt(D.tiles.row[i] + dr, D.tiles.col[i] + dc);
    const name = other === undefined ? "outside" : (D.classes[D.tiles.class_after[other]] || {name: "none"}).name;
    around.append(other === undefined || other === i ? element("span", {}, name)
      : element("button", {type: "button", onclick: () => choose(other, true)}, name));
  }
  body.append(around);
  for (const button of $("list").querySelectorAll("[aria-current]")) button.removeAttribute("aria-current");
  if (k !== null) {
    while (shownUpTo <= k) more();
    const list = $("list"), row = list.children[k];
    row.firstChild.setAttribute("aria-current", "true");
    list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 2;
  }
}

async function copy(from, button) {
  getSelection().selectAllChildren(from);
  try {
    await navigator.clipboard.writeText(from.textContent);
    button.textContent = "Copied";
  } catch (refused) { button.textContent = "Selected: press Ctrl+C"; }
  $("said").textContent = button.textContent;
}

function clicked([x, y]) {
  const i = tileAt(Math.floor(y / TILE), Math.floor(x / TILE));
  if (i !== undefined) choose(i, false);
}
map.on("singleclick", event => clicked(event.coordinate));

// ---- candidates and marks

$("marks").append(...MARKS.map(([letter, mark]) => element("button",
  {type: "button", "data-mark": mark, onclick: () => toggle(mark)}, mark + " ", element("kbd", {}, letter))));
const KEPT = "marks of " + D.run;
const marks = new Map();   // tile -> mark
let shownUpTo = 0;
const lastRow = new IntersectionObserver(rows => { if (rows.some(row => row.isIntersecting)) more(); });
function more() {   // A list of thousands grows while the reader scrolls.
  const until = Math.min(D.listed.length, shownUpTo + 200);
  for (; shownUpTo < until; shownUpTo++) {
    const k = shownUpTo, c = D.listed[k];
    const onclick = () => { choose(c.tile, true); $("map").scrollIntoView({block: "nearest"}); };
    $("list").append(element("li", {}, element("button", {type: "button", onclick},
      element("span", {}, "#" + (k + 1)), element("span", {}, chance(k)), element("span", {}, c.kind),
      element("strong", {class: "mark"}, marks.get(c.tile) || ""))));
  }
  lastRow.disconnect();
  if (shownUpTo < D.listed.length) lastRow.observe($("list").lastChild);
}
function told(message = "") {
  const less = D.listed.length - D.candidates;
  let words = D.candidates + " candidates, " + (D.calibrated ? "with a score of " + percent(D.candidate) + " or more" : D.meaning);
  if (less && D.calibrated) words += "; then " + less + " less likely tiles, with a score of " + percent(D.least) + " or more";
  $("progress").textContent = words + ". " + marks.size + " marked. " + message;
}
function marked() {
  for (const button of $("marks").children) {
    button.disabled = tile === null;
    button.setAttribute("aria-pressed", String(tile !== null && marks.get(tile) === button.dataset.mark));
  }
}
function setMark(i, mark) {
  const source = marksLayer.getSource(), old = source.getFeatureById(i), [x, y] = corner(i);
  if (old) source.removeFeature(old);
  if (mark === undefined) marks.delete(i);
  else {
    const feature = new ol.Feature({geometry: new ol.geom.Point([x + 0.15 * TILE, y + 0.85 * TILE]), mark: mark});
    feature.setId(i);
    source.addFeature(feature);
    marks.set(i, mark);
  }
  if (rank.get(i) < shownUpTo) $("list").children[rank.get(i)].querySelector(".mark").textContent = mark || "";
  marked();
}
function toggle(mark) {   // A second press removes the mark.
  const undone = marks.get(tile) === mark;
  setMark(tile, undone ? undefined : mark);
  kept(KEPT, csv());
  told();
  if (!undone && rank.has(tile) && place + 1 < D.listed.length) step(1);
}
// A spreadsheet reads a cell that begins with one of these as a formula. An apostrophe before it makes it text.
function cell(value) {
  const text = String(value).replace(/^(?=[\s'=+\-@＝＋－＠])/, "'");
  return /^'|[\s",;]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}
function csv() {   // the tiles of the list, then all other marked tiles
  const tiles = [...D.listed.map(c => c.tile), ...[...marks.keys()].filter(i => !rank.has(i))];
  const rows = tiles.map(i => [nameOf(i), D.tiles.row[i], D.tiles.col[i],
    rank.has(i) ? D.listed[rank.get(i)].score : D.tiles.score[i] < 0 ? "" : D.tiles.score[i] / 1000, marks.get(i) || ""]);
  return ["tile_id,row,col,score,mark", ...rows.map(row => row.map(cell).join(","))].join("\n") + "\n";
}
function parsed(text, parting) {   // CSV: a quoted cell may hold anything, and a quote in it is doubled
  const rows = [[]], one = `(?:"([^"]*(?:""[^"]*)*)"|([^${parting}\\r\\n]*))(${parting}|[\\r\\n]|$)`;
  for (const [, quoted, plain, end] of text.matchAll(new RegExp(one, "g"))) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "\r" || end === "\n") rows.push([]);
  }
  return rows;
}
// The browser keeps the marks when the page is closed. Where it keeps nothing for a file, Save marks still works.
function kept(name, text) {
  try {
    if (text !== undefined) localStorage.setItem(name, text);
    return localStorage.getItem(name);
  } catch (refused) { return null; }
}
// Spreadsheets write a byte order mark, semicolons in many countries, quotes, and TRUE for true.
function read(text) {
  const plain = text.replace(/^\ufeff/, ""), parting = plain.split(/[\r\n]/, 1)[0].includes(";") ? ";" : ",";
  const [head, ...rows] = parsed(plain, parting);
  const [id, mark] = ["tile_id", "mark"].map(name => head.findIndex(title => title.trim() === name));
  if (id < 0 || mark < 0) return "Expected a CSV file with the columns tile_id and mark, but the first line is: "
    + head.join(", ").slice(0, 60) + ". Choose a file that Save marks wrote.";
  const byName = new Map(Array.from({length: N}, (_, i) => [nameOf(i), i]));
  let read = 0, left = 0;
  for (const row of rows) {
    const given = (row[mark] || "").trim().toLowerCase(), named = row[id] || "";
    if (!given) continue;
    const i = byName.get([named.replace(/^'/, ""), named, named.trim()].find(name => byName.has(name)));
    if (i !== undefined && MARKS.some(m => m[1] === given)) { setMark(i, given); read++; } else left++;
  }
  kept(KEPT, csv());
  return read + " marks read" + (left ? ", " + left + " lines left out: unknown tile or mark." : ".");
}
$("save").addEventListener("click", () => {
  const href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  element("a", {href, download: "marks_" + D.county + ".csv"}).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
});
$("load").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  if (!$("file").files.length) return;
  const message = read(await $("file").files[0].text());
  $("file").value = "";
  told(message);
});
function step(by) {
  if (!D.listed.length) return;
  choose(D.listed[place === null ? 0 : (place + by + D.listed.length) % D.listed.length].tile, true);
}
$("next").addEventListener("click", () => step(1));
$("previous").addEventListener("click", () => step(-1));
more();
marked();
if (kept(KEPT)) read(kept(KEPT));
told();

// ---- keys

const LETTERS = "keys of a letter";   // People who dictate, or whose hands tremble, can switch them off.
$("letters").checked = kept(LETTERS) !== "off";
$("letters").addEventListener("change", () => kept(LETTERS, $("letters").checked ? "on" : "off"));
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key.length === 1 && !$("letters").checked) return;
  const pressed = event.key.toLowerCase(), mark = MARKS.find(m => m[0].toLowerCase() === pressed);
  if (pressed === "n") step(1);
  else if (pressed === "p") step(-1);
  else if (mark && tile !== null && !event.repeat) toggle(mark[1]);
  else if (pressed === "[") swipedTo(+$("swipe").value - 5);
  else if (pressed === "]") swipedTo(+$("swipe").value + 5);
  else if (pressed === "home" && event.target.type !== "range") whole();
  else if (pressed === "enter" && event.target === $("map")) clicked(map.getView().getCenter());
  else return;
  event.preventDefault();
});
map.once("rendercomplete", () => document.body.dataset.ready = "true");
