"use strict";
// Shows one part at a time, draws its charts when it is first opened, and gives them the colours of the page.
(() => {
  const DARK = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map(); // figure element -> Promise of its Bokeh document
  const hidden = new Map(); // part -> tags of lines that are hidden
  const chosen = new Map(); // name of a chart -> number of the choice

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const part_of = (element) => element.closest("section").dataset.part;
  const hidden_in = (part) => hidden.get(part) ?? hidden.set(part, new Set()).get(part);

  function models(doc) {
    const found = new Set();
    for (const root of doc.roots()) for (const model of root.references()) found.add(model);
    return [...found];
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return {ink: of("--ink"), soft: of("--soft"), line: of("--line"), paper: of("--paper"), raised: of("--raised"),
            states: [of("--took-part"), of("--absent"), of("--left-out")]};
  }

  function paint(doc) {
    const colour = colours();
    for (const model of models(doc)) {
      const set = (values) => {
        const known = Object.entries(values).filter(([name]) => name in model.properties);
        model.setv(Object.fromEntries(known));
      };
      if (model.tags.includes("participation")) set({palette: colour.states});
      else if (model.tags.includes("gap")) set({grid_line_color: colour.paper});
      else if (model.tags.includes("ink")) {
        set({line_color: {value: colour.ink}});
        if (model.type === "Scatter") set({fill_color: {value: colour.ink}, line_color: {value: null}});
      } else if (model.type.endsWith("Axis")) {
        set({axis_label_text_color: colour.soft, major_label_text_color: colour.soft, group_text_color: colour.soft,
             axis_line_color: colour.line, major_tick_line_color: colour.line, minor_tick_line_color: null});
      } else if (model.type === "Grid") set({grid_line_color: colour.line});
      else if (model.type === "Title") set({text_color: colour.ink});
      else if (model.type === "Legend" || model.type === "ColorBar") {
        set({label_text_color: colour.ink, title_text_color: colour.ink, background_fill_color: colour.paper,
             border_line_color: colour.line, major_label_text_color: colour.soft});
      } else if (model.type === "Figure" || model.type === "Plot") {
        set({background_fill_color: null, border_fill_color: null, outline_line_color: null});
      }
    }
  }

  function apply(doc, figure) {
    const off = hidden_in(part_of(figure));
    for (const model of models(doc)) {
      if (model.type !== "GlyphRenderer") continue;
      const tag = model.tags.find((name) => typeof name === "string" && /^(s\d+|mean)$/.test(name));
      if (tag === undefined) continue;
      model.visible = !off.has(tag);
      const choice = chosen.get(model.tags[1] ?? "");
      if (choice !== undefined) model.glyph.y = {field: `${choice}:${tag}`};
    }
  }

  function watch(doc, figure) {
    const readout = figure.querySelector(".readout");
    if (readout === null) return;
    const plot = doc.roots()[0];
    const tell = (event) => { readout.textContent = cell(doc, event.x, event.y) ?? readout.textContent; };
    plot.on_event("mousemove", tell);
    plot.on_event("tap", tell);
  }

  function cell(doc, x, y) {
    const source = models(doc).find((model) => model.type === "ColumnDataSource");
    const {image, rounds, sites, reasons, x: [left], width: [width]} = source.data;
    const column = Math.floor((x - left) / width * rounds[0].length);
    const row = Math.floor(y);
    if (!(column >= 0 && column < rounds[0].length && row >= 0 && row < sites[0].length)) return null;
    const matrix = image[0];
    const code = Array.isArray(matrix) ? matrix[row][column] : matrix[row * rounds[0].length + column];
    const state = code === 0 ? "took part" : code === 1 ? "absent" : `left out: ${reasons[0][code - 2]}`;
    return `round ${rounds[0][column]} · ${sites[0][sites[0].length - 1 - row]} · ${state}`;
  }

  const data_of = (figure) => figure.querySelector(":scope > script").textContent;

  async function embed(figure) {
    const target = figure.querySelector(".plot");
    target.replaceChildren();
    const item = JSON.parse(data_of(figure));
    const before = new Set(Bokeh.documents);
    await Bokeh.embed.embed_item(item, target);
    const doc = Bokeh.documents.find((known) => !before.has(known));
    paint(doc);
    apply(doc, figure);
    watch(doc, figure);
    return doc;
  }

  let last = Promise.resolve(); // one after the other, so that each finds its own document, and clicks come between
  function draw(figure) {
    if (!drawn.has(figure)) {
      const next = last.then(async () => {
        await new Promise((resolve) => setTimeout(resolve));
        return embed(figure);
      });
      last = next.catch(() => undefined);
      drawn.set(figure, next);
    }
    return drawn.get(figure);
  }

  async function show() {
    const sections = all("main > section");
    const wanted = decodeURIComponent(location.hash.slice(1));
    const section = sections.find((each) => each.dataset.part === wanted) ?? sections[0];
    for (const each of sections) each.hidden = each !== section;
    for (const link of all("nav a")) {
      if (link.hash.slice(1) === encodeURIComponent(section.dataset.part)) {
        link.setAttribute("aria-current", "page");
        const nav = link.parentElement;
        nav.scrollLeft = Math.max(0, link.offsetLeft - (nav.clientWidth - link.clientWidth) / 2);
      } else link.removeAttribute("aria-current");
    }
    await Promise.all(all("figure[data-figure]", section).map(draw));
  }

  function apply_to_controls() {
    for (const button of all("[data-line]")) {
      button.setAttribute("aria-pressed", String(!hidden_in(part_of(button)).has(button.dataset.line)));
    }
    for (const menu of all("select[data-chooses]")) {
      const number = chosen.get(menu.dataset.chooses);
      if (number !== undefined && menu.options[number] !== undefined) menu.value = String(number);
    }
  }

  async function apply_to_charts(section) {
    for (const figure of all("figure[data-figure]", section)) {
      if (drawn.has(figure)) apply(await drawn.get(figure), figure);
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-line]");
    if (button === null) return;
    const off = hidden_in(part_of(button));
    if (!off.delete(button.dataset.line)) off.add(button.dataset.line);
    apply_to_controls();
    apply_to_charts(button.closest("section"));
  });
  document.addEventListener("change", (event) => {
    const menu = event.target.closest("select[data-chooses]");
    if (menu === null) return;
    chosen.set(menu.dataset.chooses, Number(menu.value));
    apply_to_charts(menu.closest("section"));
  });
  addEventListener("hashchange", show);
  DARK.addEventListener("change", async () => {
    for (const doc of drawn.values()) paint(await doc);
  });

  // What the dashboard sends: a page like this one, into which the open one is morphed.

  const MORPHING = {callbacks: {
    beforeNodeMorphed: (node, fresh) => !node.isEqualNode(fresh) && !(node.matches?.(".plot, .readout") ?? false),
    beforeAttributeUpdated: (name) => !["hidden", "aria-current", "aria-pressed"].includes(name),
  }};

  async function take(fresh) {
    const before = new Map(all("figure[data-figure]").map((figure) => [figure, data_of(figure)]));
    document.title = fresh.title;
    for (const place of ["#subtitle", "nav", "main"]) {
      Idiomorph.morph(document.querySelector(place), fresh.querySelector(place), MORPHING);
    }
    const changed = all("figure[data-figure]").filter((figure) => drawn.has(figure) && before.get(figure) !== data_of(figure));
    apply_to_controls();
    const shown = show();
    for (const figure of changed) await replace_data(figure);
    await shown;
  }

  async function replace_data(figure) {
    const doc = await drawn.get(figure);
    const fresh = Bokeh.require("document").Document.from_json(JSON.parse(data_of(figure)).doc);
    if (take_over(doc, fresh)) return;
    doc.clear();
    drawn.delete(figure);
    if (!figure.closest("section").hidden) await draw(figure);
  }

  function take_over(doc, fresh) {
    const sources = (of) => models(of).filter((model) => model.type === "ColumnDataSource");
    const kinds = (of) => models(of).filter((model) => model.type === "GlyphRenderer").length;
    const old_sources = new Map(sources(doc).map((source) => [source.name, source]));
    const new_sources = sources(fresh);
    const names = (source) => Object.keys(source.data).sort().join("\n");
    const fits = (source) => old_sources.has(source.name) && names(old_sources.get(source.name)) === names(source);
    if (new_sources.length !== old_sources.size || !new_sources.every(fits) || kinds(doc) !== kinds(fresh)) return false;
    for (const source of new_sources) old_sources.get(source.name).data = source.data;
    return true;
  }

  const written = (text) => { document.querySelector("#written").textContent = text; };

  function follow() {
    const live = document.querySelector("#live");
    const events = new EventSource("/events");
    let known = null;
    let busy = false;
    async function fetch_until_known() {
      if (busy) return;
      busy = true;
      try {
        for (let taken = null; taken !== known;) {
          taken = known;
          const answer = await fetch("/", {cache: "no-store"});
          if (!answer.ok) break;
          await take(new DOMParser().parseFromString(await answer.text(), "text/html"));
          written(new Date(answer.headers.get("Last-Modified")).toLocaleString());
        }
      } catch { /* the run has ended; the page stays as it is */ } finally { busy = false; }
    }
    events.onopen = () => { live.textContent = "Live. "; };
    events.onerror = () => { live.textContent = "The run has ended, or its coordinator cannot be reached. "; };
    events.onmessage = (event) => {
      const first = known === null && event.data === document.documentElement.dataset.live;
      known = event.data;
      if (!first) fetch_until_known();
    };
    events.addEventListener("end", () => { events.close(); live.textContent = "The run has ended. "; });
  }

  written(new Date(document.lastModified).toLocaleString());
  document.documentElement.dataset.ready = "loading";
  show().then(() => { document.documentElement.dataset.ready = "yes"; });
  if (document.documentElement.dataset.live !== undefined) follow();
  window.fednnunet = {drawn, show};
})();
