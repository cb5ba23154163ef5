"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const text = document.getElementById("text");
  const detail = document.getElementById("detail");
  const tokens = Array.from(text.querySelectorAll(".t"));
  const cursors = Array.from(document.querySelectorAll(".cursor"));
  const plots = Array.from(document.querySelectorAll(".plot"));
  const last = tokens.length - 1;
  let selected = -1;
  let shown = -1;

  const states = {
    applied: "guided",
    skipped: "guidance could not change this step, so its branches were not read",
    gated: "not guided: the entropy is below the gate",
    outside: "not guided: before the start or after the stop",
    off: "no guidance",
  };

  function make(tag, content, className) {
    const element = document.createElement(tag);
    if (content !== undefined) element.textContent = content;
    if (className) element.className = className;
    return element;
  }

  function probability(logprob) {
    if (logprob === null) return "0";
    const p = Math.exp(logprob);
    return p >= 0.095 ? p.toFixed(2) : p < 1e-4 ? p.toExponential(1) : String(Number(p.toPrecision(2)));
  }

  const nats = (x) => (x === null ? "−∞" : (x + 0).toFixed(3).replace("-", "−"));

  function row(cells, tag) {
    const tr = make("tr");
    for (const cell of cells) tr.append(cell instanceof Node ? cell : make(tag || "td", cell));
    return tr;
  }

  function show(i) {
    if (i === shown) return;
    shown = i;
    for (const cursor of cursors) {
      cursor.style.display = i < 0 ? "none" : "block";
      cursor.style.left = (100 * (i + 0.5)) / tokens.length + "%";
    }
    detail.classList.toggle("filled", i >= 0);
    detail.replaceChildren();
    if (i < 0) {
      detail.append(make("p", "Point at a token to see its numbers.", "faint"));
      return;
    }
    const [id, guidance, artefact, entropy, shift, divergence, change, seen] = data.steps[i];
    detail.append(make("h2", data.labels[id], "mono"));
    detail.append(make("p", "step " + i + ", token " + id + ", " + states[data.guidance[guidance]], "faint"));
    if (artefact) detail.append(make("p", "▲ artefact: implausible to the conditional branch", "artefact"));
    // Branches that were not read have neither numbers nor a place in `seen`.
    const names = data.names.filter((_, k) => seen.length === data.names.length || k === 0 || k === data.names.length - 1);
    const numbers = make("table");
    numbers.append(row(["", "probability", "log, nats", "rank"], "th"));
    seen.forEach(([logprob, rank], k) => numbers.append(row([names[k], probability(logprob), nats(logprob), String(rank)])));
    detail.append(numbers);
    const measures = make("table");
    if (change !== null) measures.append(row(["change by guidance, nats", (change < 0 ? "" : "+") + nats(change)]));
    measures.append(row(["entropy, nats", entropy.toFixed(3)]));
    measures.append(row(["conditional ↔ guided, bits", shift.toFixed(3)]));
    divergence.forEach((d, k) => measures.append(row(["conditional ↔ " + names[k + 1] + ", bits", d.toFixed(3)])));
    detail.append(measures);
    seen.forEach(([, , top], k) => {
      const table = make("table");
      table.append(row([names[k] + "'s best", "", ""], "th"));
      for (let j = 0; j < top.length; j += 2) {
        const bar = make("td", undefined, "bar");
        const fill = make("span");
        fill.style.width = 100 * Math.exp(top[j + 1]) + "%";
        bar.append(fill);
        const tr = row([make("td", data.labels[top[j]], "name mono"), probability(top[j + 1]), bar]);
        if (top[j] === id) tr.className = "chosen";
        table.append(tr);
      }
      // The chosen token is in every table, also where others are better.
      if (!top.some((value, j) => j % 2 === 0 && value === id)) {
        const [logprob, rank] = seen[k];
        const tr = row([make("td", rank + ". " + data.labels[id], "name mono"), probability(logprob), make("td")]);
        tr.className = "chosen";
        table.append(tr);
      }
      detail.append(table);
    });
    detail.scrollTop = 0;
  }

  function select(i, scroll) {
    if (selected >= 0) tokens[selected].classList.remove("on");
    selected = i;
    if (i >= 0) {
      tokens[i].classList.add("on");
      if (scroll) tokens[i].scrollIntoView({ block: "nearest" });
    }
    show(i);
  }

  function indexOf(target) {
    const token = target instanceof Element ? target.closest(".t") : null;
    return token && text.contains(token) ? Number(token.id.slice(1)) : -1;
  }

  /** The next or previous token for which `wanted` holds, around the end. */
  function find(from, by, wanted) {
    for (let n = 1; n <= tokens.length; n++) {
      const i = (((from + by * n) % tokens.length) + tokens.length) % tokens.length;
      if (wanted(i)) return i;
    }
    return from;
  }

  /** The nearest token on the line above (by = -1) or below. */
  function otherLine(from, by) {
    const here = tokens[from].getClientRects()[0] || tokens[from].getBoundingClientRect();
    let best = from;
    let least = Infinity;
    let line = null;
    for (let i = from + by; i >= 0 && i <= last; i += by) {
      const rect = tokens[i].getClientRects()[0] || tokens[i].getBoundingClientRect();
      if (Math.abs(rect.top - here.top) < here.height / 2) continue;
      if (line !== null && Math.abs(rect.top - line) > here.height / 2) break;
      line = rect.top;
      const distance = Math.abs(rect.left - here.left);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  const changed = (i) => tokens[i].classList.contains("changed");
  const bad = (i) => Boolean(data.steps[i][2]);
  const moves = {
    ArrowRight: (i) => Math.min(i + 1, last),
    ArrowLeft: (i) => Math.max(i - 1, 0),
    ArrowDown: (i) => (i < 0 ? 0 : otherLine(i, 1)),
    ArrowUp: (i) => (i < 0 ? last : otherLine(i, -1)),
    Home: () => 0,
    End: () => last,
    a: (i) => find(i, 1, bad),
    A: (i) => find(Math.max(i, 0), -1, bad),
    c: (i) => find(i, 1, changed),
    C: (i) => find(Math.max(i, 0), -1, changed),
    Escape: () => -1,
  };

  document.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || !tokens.length || event.ctrlKey || event.metaKey || event.altKey) return;
    // A reader who tabbed to a link or a button keeps the keys that work there.
    if (document.activeElement !== text && document.activeElement !== document.body) return;
    select(move(selected), true);
    event.preventDefault();
  });
  text.addEventListener("pointerover", (event) => {
    const i = event.pointerType === "touch" ? -1 : indexOf(event.target);
    if (i >= 0) show(i);
  });
  text.addEventListener("pointerleave", () => show(selected));
  text.addEventListener("click", (event) => {
    const i = indexOf(event.target);
    select(i === selected ? -1 : i, false);
  });
  for (const plot of plots) {
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      return Math.max(0, Math.min(last, Math.floor(((event.clientX - box.left) / box.width) * tokens.length)));
    };
    plot.addEventListener("pointermove", (event) => show(at(event)));
    plot.addEventListener("pointerleave", () => show(selected));
    plot.addEventListener("click", (event) => select(at(event), true));
  }
  window.addEventListener("hashchange", () => {
    const i = Number((location.hash.match(/^#t(\d+)$/) || [])[1]);
    if (i <= last) select(i, true);
  });
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme;
    const now = dark === "dark" || (dark !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = now ? "light" : "dark";
  });
})();
