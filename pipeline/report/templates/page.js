// The page's behaviour. The address says what is shown (#/layer/channel); data files, which are scripts because a page
// opened from disk may read nothing else, report to convscope.take. Text goes into the page as text, never as HTML.
"use strict";

const convscope = (() => {
  const version = document.body.dataset.version;
  const taken = new Map(); // key -> promise of a value, and the function that keeps the promise
  const view = { whole: false, sort: "number", label: "", text: "" };
  let job = null;

  // ---- data

  function entry(key) {
    if (!taken.has(key)) {
      const one = {};
      one.promise = new Promise((keep, fail) => Object.assign(one, { keep, fail }));
      taken.set(key, one);
    }
    return taken.get(key);
  }

  function take(key, value) {
    entry(key).keep(value);
  }

  function load(key, file) {
    const one = entry(key);
    if (!one.asked) {
      one.asked = true;
      const script = document.createElement("script");
      script.src = `${encodeURI(file)}?${version}`;
      script.onerror = () => one.fail(new Error(`${file} is missing. Make the page again: convscope run SPEC --stage report.`));
      document.head.append(script);
    }
    return one.promise;
  }

  // A table of columns to a list of rows.
  function rows(columns) {
    const names = Object.keys(columns || {});
    const count = names.length ? columns[names[0]].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  }

  async function openLayer(name) {
    const layer = job.layers.find((one) => one.name === name);
    if (!layer) throw new Error(`There is no layer ${name} in this job.`);
    const found = await load(`layer:${name}`, `data/${layer.file}.js`);
    if (!layer.open) {
      const by = (table) => {
        const groups = new Map();
        for (const row of rows(found[table])) groups.set(row.channel, [...(groups.get(row.channel) || []), row]);
        return groups;
      };
      const [statistics, winners, filters, patterns] = ["channels", "winners", "filters", "patterns"].map(by);
      layer.open = found.order.map((number, place) => ({
        number,
        place,
        layer,
        statistics: (statistics.get(number) || [{}])[0],
        winners: winners.get(number) || [],
        filter: (filters.get(number) || [null])[0],
        patterns: patterns.get(number) || [],
      }));
    }
    return layer;
  }

  // ---- elements

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === undefined || value === null) continue;
      if (name in element && name !== "role") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const address = (...parts) => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
  const number = (value, digits = 3) => (typeof value === "number" ? String(Number(value.toPrecision(digits))) : "–");
  const percent = (value) => (typeof value === "number" ? `${Math.round(value * 100)} %` : "–");

  // Does something to elements once they come near the window.
  function whenNear(elements, act) {
    const watcher = new IntersectionObserver(
      (seen) => {
        for (const one of seen.filter((one) => one.isIntersecting)) {
          watcher.unobserve(one.target);
          act(one.target);
        }
      },
      { rootMargin: "800px" },
    );
    for (const element of elements) watcher.observe(element);
  }

  // One patch, cut from its sheet by the background's position.
  function patch(layer, place, rank, words) {
    const { tile } = layer;
    const shown = make("span", { className: tile.crisp ? "patch crisp" : "patch" });
    if (words) Object.assign(shown, { role: "img", ariaLabel: words, title: words });
    const sheet = Math.floor(place / tile.rows);
    const onSheet = Math.min(tile.rows, layer.count - sheet * tile.rows);
    const share = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
    const longest = Math.max(tile.height, tile.width);
    shown.style.setProperty("--wide", `calc(var(--patch) * ${tile.width / longest})`);
    shown.style.setProperty("--tall", `calc(var(--patch) * ${tile.height / longest})`);
    shown.style.backgroundImage = `url("${encodeURI(layer.sheets[sheet])}?${version}")`;
    shown.style.backgroundSize = `${tile.k * 100}% ${onSheet * 100}%`;
    shown.style.backgroundPosition = `${share(rank, tile.k)}% ${share(place % tile.rows, onSheet)}%`;
    return shown;
  }

  // The whole image of a winner with its box drawn.
  function whole(winner, words) {
    const size = job.images[winner.example];
    if (!size) return null;
    const [file, height, width] = size;
    const shown = make("span", { className: "whole" });
    shown.style.aspectRatio = `${width} / ${height}`;
    const image = make("img", { loading: "lazy", alt: words, src: `${file}?${version}` });
    const box = make("span", { className: "box" });
    const edges = { left: winner.src_x1 / width, top: winner.src_y1 / height };
    edges.width = winner.src_x2 / width - edges.left;
    edges.height = winner.src_y2 / height - edges.top;
    for (const [edge, part] of Object.entries(edges)) box.style[edge] = `${100 * part}%`;
    shown.append(image, box);
    return shown;
  }

  function words(winner) {
    const label = winner.label === null ? "" : `, ${winner.label}`;
    return `rank ${winner.rank}: ${number(winner.score, 4)}${label}, ${winner.key}`;
  }

  function picture(channel, winner, wanted) {
    const { layer, place } = channel;
    const crop = () => (layer.tile ? patch(layer, place, winner.rank, words(winner)) : null);
    return (wanted ? whole(winner, words(winner)) || crop() : crop() || whole(winner, words(winner))) || make("span", { className: "quiet" }, words(winner));
  }

  function choice(label, name, options, again) {
    const select = make("select", {}, ...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.value = view[name];
    select.onchange = () => {
      view[name] = select.value;
      again();
    };
    return make("label", {}, label, select);
  }

  // ---- views

  const SORTS = {
    number: ["number", (channel) => channel.number],
    strength: ["strength: highest first", (channel) => -(channel.statistics.max ?? -Infinity)],
    firing: ["firing rate: highest first", (channel) => -(channel.statistics.share_positive ?? -1)],
    purity: ["purity of label: highest first", (channel) => -(channel.statistics.label_purity ?? -1)],
    selectivity: ["selectivity: highest first", (channel) => -(channel.statistics.selectivity ?? -Infinity)],
  };

  function cardOf(channel) {
    const { layer, statistics } = channel;
    const label = statistics.top_label ? `${statistics.top_label} ${percent(statistics.label_purity)}` : "";
    const told = statistics.dead ? "dead" : label;
    const link = make("a", { href: address(layer.name, channel.number) }, `channel ${channel.number}`);
    return make("article", { className: "card" }, make("h3", {}, link, make("span", { className: "quiet", title: told }, told)));
  }

  function fillCard(card, channel) {
    card.querySelector(".patches")?.remove();
    const items = channel.winners.map((winner) => make("li", {}, picture(channel, winner, view.whole)));
    card.append(items.length ? make("ul", { className: "patches" }, ...items) : make("p", { className: "quiet" }, "no winners"));
  }

  async function showLayer(root, name) {
    const layer = await openLayer(name);
    const labels = new Map();
    for (const channel of layer.open) for (const winner of channel.winners) if (winner.label !== null) labels.set(winner.label, 1 + (labels.get(winner.label) || 0));
    const known = Object.entries(SORTS).filter(([key]) => key !== "selectivity" || layer.open.some((channel) => typeof channel.statistics.selectivity === "number"));
    if (!known.some(([key]) => key === view.sort)) view.sort = "number";
    const grid = make("div", { className: "channels" });
    const k = layer.tile ? layer.tile.k : 1;
    grid.style.setProperty("--card", `${Math.min(3, k) * 75 + 20}px`);
    grid.style.setProperty("--high", `${44 + 75 * Math.ceil(k / 3)}px`);
    const count = make("p", { className: "quiet", role: "status" });

    function again() {
      const text = view.text.toLowerCase();
      const matches = (winner) => (!view.label || winner.label === view.label) && (!text || `${winner.key} ${winner.label ?? ""}`.toLowerCase().includes(text));
      const chosen = layer.open.filter((channel) => (!view.label && !text) || channel.winners.some(matches) || String(channel.number) === text);
      const order = SORTS[view.sort][1];
      chosen.sort((a, b) => order(a) - order(b) || a.number - b.number);
      count.textContent = chosen.length === layer.open.length ? `${chosen.length} channels` : `${chosen.length} of ${layer.open.length} channels`;
      const cards = new Map(chosen.map((channel) => [cardOf(channel), channel]));
      grid.replaceChildren(...cards.keys());
      whenNear(cards.keys(), (card) => fillCard(card, cards.get(card)));
    }

    const filter = make("input", { type: "search", value: view.text, placeholder: "file, label or number" });
    filter.oninput = () => {
      view.text = filter.value;
      again();
    };
    const most = [...labels].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    if (!labels.has(view.label)) view.label = "";
    const list = [["", `any of ${most.length}`], ...most.slice(0, 500).map(([label, times]) => [label, `${label} (${times})`])];
    const toggle = make("button", { type: "button", textContent: "whole images", ariaPressed: String(view.whole), disabled: !Object.keys(job.images).length });
    toggle.onclick = () => {
      view.whole = !view.whole;
      toggle.ariaPressed = String(view.whole);
      again();
    };
    const tools = [choice("Sort by", "sort", known.map(([key, [text]]) => [key, text]), again)];
    if (most.length) tools.push(choice("Label", "label", list, again));
    tools.push(make("label", {}, "Find", filter), toggle);
    root.append(make("h1", { tabIndex: -1 }, name), describe(layer), make("div", { className: "tools", role: "group", ariaLabel: "Order and choice" }, ...tools), count, grid);
    if (!layer.open.length) grid.append(make("p", { className: "notice" }, "No channel of this layer has been looked at."));
    again();
  }

  function describe(layer) {
    const { field } = layer;
    if (!field) return make("p", { className: "quiet" }, "receptive field not known");
    const sees = field.global ? "every unit sees the whole image" : `a unit sees up to ${field.height} × ${field.width} pixels, ${number(field.stride_y)} × ${number(field.stride_x)} apart`;
    return make("p", { className: "quiet" }, `${field.map_height} × ${field.map_width} × ${layer.count}, ${sees}`);
  }

  function facts(pairs) {
    const lines = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "–");
    return make("table", {}, make("tbody", {}, ...lines.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
  }

  function histogram(statistics) {
    const { histogram: counts, histogram_edges: edges } = statistics;
    if (!counts || !counts.length) return null;
    const svgSpace = "http://www.w3.org/2000/svg";
    const draw = (tag, attributes, text) => {
      const element = document.createElementNS(svgSpace, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      if (text !== undefined) element.textContent = text;
      return element;
    };
    const most = Math.max(...counts);
    const svg = draw("svg", { class: "histogram", viewBox: "0 0 320 140", role: "img", "aria-label": `Histogram of the channel's responses from ${number(edges[0])} to ${number(edges[edges.length - 1])}` });
    counts.forEach((count, i) => {
      const high = most ? (110 * count) / most : 0;
      const bar = draw("rect", { x: (320 * i) / counts.length + 0.5, y: 112 - high, width: 320 / counts.length - 1, height: high });
      bar.append(draw("title", {}, `${number(edges[i])} to ${number(edges[i + 1])}: ${count}`));
      svg.append(bar);
    });
    svg.append(draw("text", { x: 0, y: 130 }, number(edges[0])), draw("text", { x: 320, y: 130, "text-anchor": "end" }, number(edges[edges.length - 1])));
    return make("div", {}, make("h2", {}, "Responses"), svg);
  }

  function labelsOf(winners) {
    const counts = new Map();
    for (const { label } of winners) if (label !== null) counts.set(label, 1 + (counts.get(label) || 0));
    if (!counts.size) return null;
    const lines = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${(100 * count) / winners.length}%`;
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, `${count} of ${winners.length}`, bar));
    });
    return make("div", {}, make("h2", {}, "Labels of the winners"), make("table", {}, make("tbody", {}, ...lines)));
  }

  function enlarge(channel, winner) {
    const close = make("button", { type: "button", textContent: "Close", autofocus: true });
    const shown = whole(winner, words(winner)) || picture(channel, winner, false);
    const dialog = make("dialog", { ariaLabel: words(winner) }, shown, make("p", {}, words(winner)), close);
    close.onclick = () => dialog.close();
    dialog.onclick = (event) => event.target === dialog && dialog.close();
    dialog.onclose = () => dialog.remove();
    document.body.append(dialog);
    dialog.showModal();
  }

  async function showChannel(root, name, wanted) {
    const layer = await openLayer(name);
    const at = layer.open.findIndex((channel) => String(channel.number) === wanted);
    if (at < 0) throw new Error(`${name} has no channel ${wanted} in this job.`);
    const channel = layer.open[at];
    const { statistics, winners } = channel;
    const step = (to, text, rel) => (layer.open[to] ? make("a", { href: address(name, layer.open[to].number), rel }, text) : make("span", { className: "quiet" }, text));
    const steps = make("nav", { className: "steps", ariaLabel: "Channels" }, step(at - 1, "← previous", "prev"), make("a", { href: address(name), rel: "up" }, name), step(at + 1, "next →", "next"));
    const items = winners.map((winner) => {
      const pair = make("div", { className: "pair" }, picture(channel, winner, false));
      if (layer.tile && whole(winner, "")) {
        const button = make("button", { type: "button", ariaLabel: `Enlarge the whole image of rank ${winner.rank}` }, whole(winner, words(winner)));
        button.onclick = () => enlarge(channel, winner);
        button.style.padding = "0";
        pair.append(button);
      }
      const where = `row ${winner.row}, column ${winner.col}; pixels ${winner.src_x1}–${winner.src_x2} × ${winner.src_y1}–${winner.src_y2}`;
      return make("li", {}, pair, make("p", {}, make("strong", {}, number(winner.score, 5)), ` ${winner.label ?? ""}`, make("br"), winner.key, make("br"), make("span", { className: "quiet" }, where)));
    });
    const query = `SELECT * FROM 'index/activations.parquet'\nWHERE layer = '${name.replaceAll("'", "''")}' AND channel = ${channel.number} ORDER BY rank;`;
    const copy = make("button", { type: "button", textContent: "Copy" });
    copy.onclick = () => copyText(query, copy);
    const numbers = facts([
      ["images seen", statistics.seen?.toLocaleString("en")],
      ["mean", number(statistics.mean)],
      ["standard deviation", number(statistics.std)],
      ["maximum", number(statistics.max)],
      ["share above zero", percent(statistics.share_positive)],
      ["dead", statistics.dead === undefined || statistics.dead === null ? null : statistics.dead ? "yes" : "no"],
      ["selective for", statistics.selective_label ? `${statistics.selective_label} (index ${number(statistics.selectivity)})` : null],
      ["twin channel", twin(layer, statistics)],
      ["norm of the kernel", channel.filter ? number(channel.filter.norm) : null],
      ["nearest kernel", channel.filter && channel.filter.twin !== null && channel.filter.twin !== undefined ? make("a", { href: address(name, channel.filter.twin) }, `channel ${channel.filter.twin}`) : null],
    ]);
    root.append(
      make("h1", { tabIndex: -1 }, `${name}, channel ${channel.number}`),
      steps,
      make("h2", {}, "Strongest patches"),
      items.length ? make("ol", { className: "winners" }, ...items) : make("p", { className: "notice" }, "This channel has no winners."),
      make("div", { className: "columns" }, make("div", {}, make("h2", {}, "Numbers"), numbers), histogram(statistics), labelsOf(winners)),
      ...patternsOf(channel),
      make("h2", {}, "These rows, in DuckDB"),
      make("pre", { tabIndex: 0 }, query),
      copy,
    );
  }

  function twin(layer, statistics) {
    if (typeof statistics.twin !== "number") return null;
    return make("a", { href: address(layer.name, statistics.twin) }, `channel ${statistics.twin} (correlation ${number(statistics.twin_correlation)})`);
  }

  function patternsOf(channel) {
    if (!channel.patterns.length) return [];
    const shown = channel.patterns.filter((row) => row.image).map((row) => {
      const words = `Pattern dreamed for channel ${channel.number}; it reaches ${number(row.activation)}`;
      return make("figure", {}, make("img", { loading: "lazy", alt: words, src: `${encodeURI(row.image)}?${version}` }), make("figcaption", { className: "quiet" }, words));
    });
    return [make("h2", {}, "Patterns"), make("div", { className: "columns" }, ...shown)];
  }

  function copyText(text, button) {
    const done = () => {
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    };
    // Pages opened from disk are not always trusted with the clipboard's newer interface.
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    button.focus();
    if (copied) done();
    else if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => (button.textContent = "Select it and copy"));
  }

  // ---- where we are

  const place = () => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);

  async function route(event) {
    const parts = place();
    const [overview, changing] = ["overview", "changing"].map((id) => document.getElementById(id));
    overview.hidden = parts.length > 0;
    changing.hidden = !parts.length;
    document.getElementById("layers").value = parts[0] ?? "";
    const fresh = make("div");
    try {
      if (parts.length === 1) await showLayer(fresh, parts[0]);
      else if (parts.length > 1) await showChannel(fresh, parts[0], parts[1]);
    } catch (error) {
      fresh.replaceChildren(make("h1", { tabIndex: -1 }, "Not here"), make("p", { className: "notice" }, error.message), make("p", {}, make("a", { href: "#/" }, "Back to the overview")));
    }
    if (place().join("/") !== parts.join("/")) return; // someone was quicker
    changing.replaceChildren(fresh);
    document.title = [...[...parts].reverse(), job.name, "convscope"].join(" · ");
    if (event) {
      scrollTo(0, 0);
      (fresh.querySelector("h1") || document.getElementById("view")).focus({ preventScroll: true });
    }
  }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
    const link = document.querySelector(`#changing a[rel=${rel}]`);
    if (rel && link) location.href = link.href;
    else if (rel === "up") location.hash = "#/";
  }

  entry("job").promise.then((found) => {
    job = found;
    document.getElementById("layers").onchange = (event) => (location.hash = event.target.value ? address(event.target.value) : "#/");
    const layers = new Map(job.layers.map((layer) => [layer.name, layer]));
    whenNear(document.querySelectorAll(".strip"), (strip) => {
      const layer = layers.get(strip.dataset.layer);
      strip.ariaHidden = "true"; // the link beside it says it in words
      for (let at = 0; layer.tile && at < Math.min(layer.count, layer.tile.rows, 16); at++) strip.append(patch(layer, at, 0));
    });
    addEventListener("hashchange", route);
    addEventListener("keydown", keys);
    route();
  });

  return { take };
})();
