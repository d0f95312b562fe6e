// What the pages share: data files, elements, addresses. Data files are scripts, because a page opened from disk may read
// nothing else; they report to convscope.take. Text goes into a page as text, never as HTML.
"use strict";

const convscope = (() => {
  const version = document.body.dataset.version;
  const taken = new Map(); // key -> promise of a value, and the functions that keep or break the promise

  // ---- data

  function entry(key) {
    if (!taken.has(key)) {
      const fresh = {};
      fresh.promise = new Promise((keep, fail) => Object.assign(fresh, { keep, fail }));
      taken.set(key, fresh);
    }
    return taken.get(key);
  }

  const take = (key, value) => entry(key).keep(value);
  const ready = (key) => entry(key).promise;

  function load(key, file) {
    const asked = entry(key);
    if (!asked.asked) {
      asked.asked = true;
      const script = document.createElement("script");
      script.src = `${encodeURI(file)}?${version}`;
      script.onerror = () => asked.fail(new Error(`${file} is missing. Make the page again: convscope report FOLDER.`));
      document.head.append(script);
    }
    return asked.promise;
  }

  // A table of columns to a list of rows.
  function rows(columns) {
    const names = Object.keys(columns || {});
    const count = names.length ? columns[names[0]].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  }

  function byChannel(list) {
    const groups = new Map();
    for (const row of list) {
      if (!groups.has(row.channel)) groups.set(row.channel, []);
      groups.get(row.channel).push(row);
    }
    return groups;
  }

  // The images that have won anywhere, by example: file, height, width, what the network saw (y1, x1, y2, x2), key, label.
  async function openImages(job) {
    if (!job.images) {
      const columns = await load(`${job.prefix}images`, `${job.prefix}data/+images.js`);
      job.images = new Map(rows(columns).map((row) => [row.example, row]));
    }
    return job.images;
  }

  // A layer's channels with their statistics and winners, in the page's order.
  async function openLayer(job, name) {
    const layer = job.layers.find((other) => other.name === name);
    if (!layer) throw new Error(`There is no layer ${name} in this job.`);
    const [stored, images] = await Promise.all([load(`${job.prefix}layer:${name}`, layer.data), openImages(job)]);
    if (!layer.channels) {
      const statistics = byChannel(rows(stored.channels));
      const quality = byChannel(rows(stored.quality));
      const winners = byChannel(rows(stored.winners));
      layer.rows = stored.rows;
      layer.channels = stored.order.map((number, at) => {
        const channel = { number, layer, job, statistics: { ...statistics.get(number)?.[0], ...quality.get(number)?.[0] }, name: stored.names?.[number], patterns: stored.patterns?.[number] || [] };
        channel.winners = (winners.get(number) || []).map((winner) => named(images, winner));
        channel.details = `${layer.details}/${Math.floor(at / stored.chunk)}`;
        return channel;
      });
      layer.numbers = new Map(layer.channels.map((channel) => [channel.number, channel]));
    }
    return layer;
  }

  // A winner with the key and the label of its image.
  function named(images, winner) {
    const { key = `example ${winner.example}`, label = null } = images.get(winner.example) || {};
    return { key, label, ...winner };
  }

  const openEvery = (job) => Promise.all(job.layers.map((layer) => openLayer(job, layer.name)));

  // What only a view of a single channel shows: histogram, maps, positions and the rows of other tables.
  async function openDetails(channel) {
    const { job, number } = channel;
    const stored = await load(channel.details, `${channel.details}.js`);
    if (!stored.tables) {
      stored.tables = new Map(Object.entries(stored.rows).map(([name, table]) => [name, byChannel(Array.isArray(table) ? table : rows(table))]));
    }
    const of = (name) => stored.tables.get(name)?.get(number) || [];
    const found = { maps: stored.maps?.[number] || {}, kernels: stored.kernels?.[number] || [], histogram: of("histogram")[0] || {} };
    for (const name of ["weakest", "by_label"]) found[name] = of(name).map((winner) => named(job.images, winner));
    for (const name of ["winners", "filters", "patterns", "neighbours", "concepts", "circuits"]) found[name] = of(name);
    return found;
  }

  // ---- elements

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === undefined || value === null) continue;
      if (name in element && name !== "role") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }

  const heading = (text, ...more) => make("h1", { tabIndex: -1 }, text, ...more);
  const link = (text, href, properties = {}) => make("a", { href, ...properties }, text);
  const number = (value, digits = 3) => (typeof value === "number" ? String(Number(value.toPrecision(digits))).replace("-", "−") : "–");
  const percent = (value) => (typeof value !== "number" ? "–" : value > 0 && value < 0.01 ? "< 1%" : `${Math.round(value * 100)}%`);
  const count = (value, noun, several = `${noun}s`) => `${value.toLocaleString("en")} ${value === 1 ? noun : several}`;

  // Does something to elements once they come near the window.
  function whenNear(elements, act) {
    const watcher = new IntersectionObserver(
      (seen) => {
        for (const { target } of seen.filter((entry) => entry.isIntersecting)) {
          watcher.unobserve(target);
          act(target);
        }
      },
      { rootMargin: "600px" },
    );
    for (const element of elements) watcher.observe(element);
  }

  // A labelled choice; `chosen` is called with its value.
  function choice(label, value, options, chosen) {
    const select = make("select", { ariaLabel: label }, ...options.map(([key, text]) => make("option", { value: key, textContent: text })));
    select.value = value;
    select.onchange = () => chosen(select.value);
    return make("label", {}, label, select);
  }

  // Buttons of which one is pressed.
  function buttons(label, value, options, chosen) {
    const group = make("span", { className: "buttons", role: "group", ariaLabel: label });
    for (const [key, text] of options) {
      const button = make("button", { type: "button", textContent: text, ariaPressed: String(key === value) });
      button.onclick = () => {
        for (const other of group.children) other.ariaPressed = String(other === button);
        chosen(key);
      };
      group.append(button);
    }
    return group;
  }

  // A word with its meaning: a tooltip, and the way to the glossary.
  function term(word, text = word) {
    const meaning = convscope.GLOSSARY?.[word];
    return meaning ? link(text, address("+glossary", word), { className: "term", title: meaning }) : text;
  }

  // Names and values, without those that are not known; a name that the glossary has is explained.
  function facts(pairs) {
    const lines = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "–" && value !== "");
    return make("table", {}, make("tbody", {}, ...lines.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, term(name)), make("td", {}, value)))));
  }

  function copyText(text, button) {
    const before = button.textContent;
    const done = () => {
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = before), 1500);
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

  // ---- where we are: #/part/part?name=value&name=value

  function address(...parts) {
    const settings = typeof parts.at(-1) === "object" ? parts.pop() : {};
    const query = new URLSearchParams(Object.entries(settings).filter(([, value]) => value !== undefined && value !== null && value !== ""));
    return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}${query.size ? `?${query}` : ""}`;
  }

  function here() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const plain = (part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part; // an address that somebody typed
      }
    };
    return { parts: path.split("/").filter(Boolean).map(plain), settings: Object.fromEntries(new URLSearchParams(query)) };
  }

  const latest = new Map(); // by a view's parts: the address at which it was last seen, with its settings
  const remember = () => latest.set(here().parts.join("/"), location.hash);
  const lastOf = (...parts) => latest.get(parts.join("/")) || address(...parts);

  // Note settings of this view in its address, without a new entry in the browser's history.
  function note(changes) {
    const { parts, settings } = here();
    history.replaceState(null, "", address(...parts, { ...settings, ...changes }));
    remember();
  }

  // Show what the address says, now and whenever it changes. `show(root, parts, settings)` fills an empty element for an
  // address that is not the overview's.
  function follow(title, show) {
    const find = document.getElementById("find"); // a comparison has none
    let routing = true;
    let scrolled;
    history.scrollRestoration = "manual";

    async function route(event) {
      const { parts, settings } = here();
      clearTimeout(scrolled);
      routing = true;
      const fresh = make("div");
      try {
        if (parts.length) await show(fresh, parts, settings);
      } catch (error) {
        fresh.replaceChildren(heading("Not here"), make("p", { className: "notice" }, error.message), make("p", {}, link("Back to the overview", "#/")));
      }
      if (here().parts.join("/") !== parts.join("/")) return; // someone was quicker
      document.getElementById("overview").hidden = parts.length > 0;
      const changing = document.getElementById("changing");
      changing.hidden = !parts.length;
      changing.replaceChildren(fresh);
      const layers = document.getElementById("layers");
      layers.value = parts[0]?.startsWith("+") ? "+" : (parts[0] ?? "");
      for (const view of document.querySelectorAll("header nav a")) view.ariaCurrent = view.hash === address(parts[0] ?? "") ? "page" : null;
      if (find && parts[0] !== "+find") find.value = "";
      document.title = [...[...parts].reverse(), title, "convscope"].join(" · ");
      remember();
      if (event || settings.y) scrollTo(0, Number(settings.y) || 0);
      routing = false;
      if (event && !document.activeElement?.matches("#find")) (fresh.querySelector("h1") || document.getElementById("view")).focus({ preventScroll: true });
    }

    function keys(event) {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "/" && !typing && find) {
        event.preventDefault();
        find.focus();
      }
      if (typing) return;
      const rel = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
      const way = rel && document.querySelector(`#changing a[rel=${rel}]`);
      if (way) location.href = way.href;
      else if (rel === "up" && here().parts.length) location.hash = lastOf();
    }

    document.getElementById("layers").onchange = ({ target }) => (location.hash = target.value ? address(target.value) : "#/");
    if (find) {
      find.form.onsubmit = (event) => {
        event.preventDefault();
        location.hash = address("+find", { text: find.value.trim() });
      };
    }
    addEventListener("hashchange", route);
    addEventListener("keydown", keys);
    addEventListener("scroll", () => {
      clearTimeout(scrolled);
      if (!routing) scrolled = setTimeout(() => note({ y: Math.round(scrollY) || null }), 150);
    });
    route();
  }

  return { take, ready, load, rows, openImages, openLayer, openEvery, openDetails, named, make, heading, link, number, percent, count, whenNear, choice, buttons, term, facts, copyText, address, here, lastOf, note, follow, version };
})();
