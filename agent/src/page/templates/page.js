
"use strict";
// Keeps the page current: asks for ips.json, node.json and history.json every second and shows the newest that anybody
// has said. Behind a balancer each answer may come from another node, so what is said of a node is paired by
// X-Served-By. Ages are the answers' own Date minus times they carry; between answers a monotonic clock runs on, and
// this machine's time of day is never asked. All text enters by textContent.
(() => {
  const EVERY = 1000, PATIENCE = 4000, SILENT = 5000, LONGEST_PAUSE = 10000;
  const RECENT = 30000, REMEMBERED = 900000, SHOWN = 500, CHIPS = 24, REQUESTS = 100, EVENTS = 12, BARS = 12;
  // An answer's Date has whole seconds, node.json is up to a second old, and so is the last poll.
  const SLACK = 4000;
  const LOOKS = { serving: "●", draining: "◐", lost: "✕" };

  const $ = (id) => document.getElementById(id);
  const body = document.body, fleet = $("fleet").textContent, rendered = $("sentence").textContent, svgNames = $("age").namespaceURI;
  const shown = { list: null, registry: body.dataset.registry || null, revision: Number(body.dataset.revision), since: 0 };
  const nodes = new Map(), left = new Map(), rows = new Map(), served = [];
  const past = { events: [], revision: -1, joined: new Map(), why: new Map() };
  const clock = { base: null };
  let lastAnswer = performance.now(), resumed = lastAnswer, lastBy = null;
  let paused = false, asking = false, failures = 0, timer = 0, ticker = 0, broken = false;

  // Elements.
  const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const set = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value); };
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const draw = (tag, attributes, text) => {
    const node = document.createElementNS(svgNames, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  /// Parts of a line, with a space between, so that they are words to who hears them too.
  const line = (name, ...parts) => {
    const node = make("li", name);
    parts.forEach((part, n) => node.append(...(n ? [" ", part] : [part])));
    return node;
  };
  const sign = (glyph) => { const node = make("span", "", glyph); node.setAttribute("aria-hidden", "true"); return node; };

  // Words.
  const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const time = (at) => new Date(at).toISOString().slice(11, 19);
  const plain = (value) => typeof value === "string" ? value : "";
  const moment = (value) => { const at = Date.parse(plain(value)); return Number.isNaN(at) ? null : at; };
  const lasted = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
    if (d) return `${d} d ${h % 24} h`;
    if (h) return `${h} h ${m % 60} m`;
    return m ? `${m} m ${s % 60} s` : `${s} s`;
  };
  const nameOf = (ip) => {
    const listed = shown.list && shown.list.nodes.find((node) => node.ip === ip);
    const name = listed ? listed.name : nodes.get(ip) && nodes.get(ip).name;
    return plain(name) || ip || "a node";
  };

  /// The nodes' time of day now, or null before the first answer.
  const now = () => clock.base === null ? null : clock.base + performance.now();
  const told = (date, at) => {
    const base = date - at;
    // A Date is rounded down, so the largest is nearest; a clock that was set is believed.
    if (clock.base === null || base > clock.base || clock.base - base > 3000) clock.base = base;
  };

  // Asking.
  const ask = async (path) => {
    const abort = new AbortController(), bound = setTimeout(() => abort.abort(), PATIENCE);
    try {
      const answer = await fetch(path, { cache: "no-store", redirect: "error", signal: abort.signal });
      if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
      const says = await answer.json(), by = plain(answer.headers.get("X-Served-By"));
      if (!says || says.schema !== 1) throw new Error(`${path}: not schema 1`);
      const date = moment(answer.headers.get("Date"));
      return { says, by: /^[0-9.]{7,15}$/.test(by) ? by : null, date, at: performance.now() };
    } finally {
      clearTimeout(bound);
    }
  };

  const heard = (answer, facts) => {
    if (answer.date !== null) told(answer.date, answer.at);
    lastAnswer = answer.at;
    lastBy = answer.by;
    if (!answer.by) return;
    served.push(answer.by);
    if (served.length > REQUESTS) served.shift();
    nodes.set(answer.by, { ...nodes.get(answer.by), ...facts, ip: answer.by, at: answer.at });
  };

  const takeList = (answer) => {
    const list = answer.says;
    if (!Array.isArray(list.nodes) || !Number.isSafeInteger(list.revision)) throw new Error("ips.json: no list");
    const stale = list.stale_since !== undefined, registry = list.registry ?? null;
    const facts = { revision: list.revision, registry, digest: list.digest, stale };
    if (stale) facts.contact = moment(list.stale_since);
    heard(answer, facts);
    const other = registry !== shown.registry;
    // Whoever has not noticed yet that the registry was replaced must not turn the page back.
    if (other && answer.at - (left.get(registry) ?? -Infinity) < 10000) return;
    if (!other && list.revision < shown.revision) return;
    if (other || list.revision !== shown.revision || !shown.list) shown.since = answer.at;
    if (other) {
      left.set(shown.registry, answer.at);
      past.revision = -1;
    }
    Object.assign(shown, { list, registry, revision: list.revision });
  };

  const takeNode = (answer) => {
    const { says } = answer, registry = says.registry;
    if (!registry || !Number.isSafeInteger(says.revision)) throw new Error("node.json: no node");
    const contact = moment(registry.last_contact_at), bound = Number(registry.stale_after_ms) || 5000;
    const age = contact === null || answer.date === null ? 0 : Math.max(0, answer.date - contact);
    heard(answer, {
      name: plain(says.name), revision: says.revision, registry: registry.id ?? null, digest: says.digest,
      contact, bound, stale: registry.state === "stale" || age > bound + SLACK,
    });
  };

  const takeHistory = (answer) => {
    const events = answer.says.events;
    if (!Array.isArray(events)) throw new Error("history.json: no events");
    heard(answer, {});
    const newest = events.length ? Number(events[0].revision) : 0;
    if (newest < past.revision || (newest === past.revision && events.length <= past.events.length)) return;
    Object.assign(past, { events, revision: newest });
    past.joined.clear();
    past.why.clear();
    events.forEach((event, rank) => {
      const id = `${event.node}-${event.instance}`;
      if (event.event === "joined" && !past.joined.has(id)) past.joined.set(id, plain(event.at));
      for (const key of [id, plain(event.node)]) if (!past.why.has(key)) past.why.set(key, { ...event, rank });
    });
    chart.stamp = null;
  };

  const poll = async () => {
    clearTimeout(timer);
    if (asking || broken) return;
    asking = true;
    const began = performance.now();
    const answers = await Promise.allSettled([ask("ips.json"), ask("node.json"), ask("history.json")]);
    asking = false;
    let taken = 0;
    [takeList, takeNode, takeHistory].forEach((take, n) => {
      try {
        if (answers[n].status === "fulfilled") { take(answers[n].value); taken += n < 2 ? 1 : 0; }
      } catch (error) { console.warn(error.message); }
    });
    // node.json may be missing for a moment; without a list there is nothing to show.
    failures = taken ? 0 : failures + 1;
    if (taken) document.documentElement.dataset.beat = document.documentElement.dataset.beat === "0" ? "1" : "0";
    guard(show);
    if (paused || document.hidden || broken) return;
    const pause = failures ? Math.min(LONGEST_PAUSE, EVERY * 2 ** Math.min(failures - 1, 4)) : EVERY;
    timer = setTimeout(poll, Math.max(100, pause - (performance.now() - began)));
  };

  // Judging.
  const recent = (within) => [...nodes.values()].filter((node) => performance.now() - node.at < within);

  const standing = (node) => {
    if (shown.list && !shown.list.nodes.some((listed) => listed.ip === node.ip)) return { kind: "asked", glyph: "○", word: "not listed now" };
    if (node.stale) return { kind: "stale", glyph: "◷", word: "out of touch" };
    if (node.revision === undefined) return { kind: "asked", glyph: "◌", word: "not asked yet" };
    if (node.registry === shown.registry && node.revision >= shown.revision) return { kind: "agrees", glyph: "✓", word: "agrees" };
    const since = node.at - shown.since;
    if (since < 0) return { kind: "asked", glyph: "◌", word: "not asked since" };
    if (since < 3000) return { kind: "asked", glyph: "◌", word: "catching up" };
    if (node.registry !== shown.registry) return { kind: "behind", glyph: "≠", word: "another registry" };
    if (shown.list && node.digest === shown.list.digest) return { kind: "agrees", glyph: "✓", word: "same addresses" };
    return { kind: "behind", glyph: "▽", word: "behind" };
  };

  const freshest = () => {
    const known = recent(RECENT).filter((node) => typeof node.contact === "number");
    return known.reduce((best, node) => !best || node.contact > best.contact ? node : best, null);
  };

  const tally = (list) => {
    const count = { total: list.nodes.length, serving: 0, draining: 0, lost: 0 };
    for (const node of list.nodes) if (node.state in count) count[node.state] += 1;
    count.led = list.nodes.some((node) => node.leader);
    if (!count.led) {
      // A leader whose nginx is down is in no list; history tells of it.
      const change = past.events.find((event) => event.event === "leader-changed");
      count.led = Boolean(change && change.instance);
    }
    return count;
  };

  const phrase = (count) => {
    const { total, serving } = count;
    let text;
    if (!total) return "No node is registered";
    if (!serving) text = "No node serving";
    else if (serving === total) text = total === 1 ? "1 node serving" : `All ${total} nodes serving`;
    else text = `${serving} of ${total} nodes serving`;
    for (const state of ["draining", "lost"]) if (count[state]) text += `, ${count[state]} ${state}`;
    return count.led ? text : `${text}, no leader`;
  };
  const lower = (text) => text[0].toLowerCase() + text.slice(1);

  /// The worst of all that is known: what the page's first line says.
  const judge = (count) => {
    const at = performance.now(), all = shown.list ? phrase(count) : rendered, asOf = now() === null ? "when it was loaded" : `${time(now() - (at - lastAnswer))} UTC`;
    const verdict = (kind, glyph, word, sentence, warning) => ({ kind, glyph, word, sentence, warning: warning || "" });
    if (paused) return verdict("stale", "‖", "Paused", `As of ${asOf}: ${lower(all)}`);
    if (at - lastAnswer > SILENT && at - resumed < SILENT) return verdict("stale", "◌", "Asking", `As of ${asOf}: ${lower(all)}`);
    if (at - lastAnswer > SILENT) {
      return verdict("stale", "?", "No answer", `No answer to this page for ${lasted(at - lastAnswer)}`,
        `What you see is from ${asOf}. Nobody answers this page, so it cannot tell how the fleet is: ` +
        `the fleet may be well and the way to it cut. It goes on asking.`);
    }
    const best = freshest(), lately = recent(SLACK);
    const age = best && now() !== null ? Math.max(0, now() - best.contact) : 0;
    const out = recent(RECENT).filter((node) => standing(node).kind === "stale").length;
    const behind = recent(RECENT).filter((node) => standing(node).kind === "behind").length;
    if ((best && age > (best.bound || 5000) + SLACK) || (lately.length && lately.every((node) => node.stale))) {
      const since = best ? ` by ${nameOf(best.ip)} since ${time(best.contact)} UTC (${lasted(age)})` : "";
      return verdict("stale", "◷", "Stale", `Last known: ${lower(all)}`,
        `Last known list, registry not reached${since}. nginx and Envoy keep serving it; ` +
        `nothing is removed while we cannot see.`);
    }
    let text = all, warning = "";
    if (out) text += `, ${out} out of touch`;
    if (behind) text += `, ${behind} behind`;
    if (out) warning = `${many(out, "node")} of those that answer cannot reach the registry and would show an older list.`;
    else if (behind) warning = `${many(behind, "node")} of those that answer ${behind === 1 ? "shows" : "show"} an older list than the newest.`;
    if (!count.total) warning = "The registry was read and holds no node. A node appears here as soon as its nginx answers.";
    if (!count.serving) return verdict("bad", "✕", "Down", text, warning);
    if (count.lost || out || behind) return verdict("notice", "▲", "Degraded", text, warning);
    if (!count.led) return verdict("notice", "▲", "No leader", text, warning);
    if (count.draining) return verdict("notice", "◐", "Changing", text, warning);
    return verdict("good", "●", "Healthy", text, warning);
  };

  // Showing.
  const show = () => {
    if (!shown.list) {
      // Nothing to show but what the node rendered; silence must show all the same.
      if (!paused && performance.now() - lastAnswer <= SILENT) return;
    }
    const start = performance.now();
    for (const [ip, node] of nodes) if (start - node.at > 4 * RECENT) nodes.delete(ip);
    const list = shown.list || { nodes: [], fleet };
    const count = tally(list), verdict = judge(shown.list ? count : { total: 0, serving: 0, led: true });
    showVerdict(verdict);
    if (shown.list) {
      for (const state of ["serving", "draining", "lost"]) put($(state), String(count[state]));
      put($("revision"), String(shown.revision));
      const leader = list.nodes.find((node) => node.leader);
      put($("leader"), leader ? plain(leader.ip) : count.led ? "not listed" : "none");
      put($("digest"), plain(list.digest));
      put($("registry"), plain(list.registry) || "not known yet");
      put($("scope"), count.serving === count.total ? "" : " Requests go only to those that are serving.");
      showRows(list, verdict.kind !== "stale");
    }
    showFreshness();
    showChips();
    showGone();
    showServed();
    showTimeline(count);
    performance.clearMeasures("muster");
    performance.measure("muster", { start, end: performance.now() });
  };

  const showVerdict = (verdict) => {
    if (body.className !== verdict.kind) body.className = verdict.kind;
    put($("glyph"), verdict.glyph);
    put($("word"), verdict.word);
    put($("sentence"), verdict.sentence);
    put($("warning"), verdict.warning);
    $("warning").hidden = !verdict.warning;
    const title = `${verdict.glyph} ${verdict.word}: ${verdict.sentence} · ${fleet}`;
    if (document.title !== title) document.title = title;
    // The seconds of a silence are for eyes.
    say(verdict.word === "No answer" ? "No answer to this page" : `${verdict.word}: ${verdict.sentence}`);
  };

  const spoken = { at: -Infinity, next: null, timer: 0 };
  const say = (sentence) => {
    if (spoken.next === sentence) return;
    spoken.next = sentence;
    clearTimeout(spoken.timer);
    const speak = () => { spoken.at = performance.now(); put($("spoken"), spoken.next); };
    const wait = spoken.at + 5000 - performance.now();
    if (wait <= 0) speak(); else spoken.timer = setTimeout(speak, wait);
  };

  const newRow = () => {
    const row = make("tr"), head = make("th"), cell = (name) => row.appendChild(make("td", name));
    head.scope = "row";
    row.append(head);
    const parts = { row, ip: head.appendChild(make("span", "ip")), port: head.appendChild(make("small")) };
    parts.copy = head.appendChild(make("button", "copy"));
    parts.copy.type = "button";
    parts.name = cell("name");
    parts.role = cell("role");
    const state = cell("state"), pill = state.appendChild(make("span", "pill"));
    parts.glyph = pill.appendChild(sign(""));
    pill.append(" ");
    parts.word = pill.appendChild(make("span"));
    state.append(" ");
    parts.why = state.appendChild(make("span", "reason"));
    parts.up = cell("up live");
    parts.time = cell("since").appendChild(make("time"));
    parts.date = parts.time.appendChild(make("span"));
    parts.time.append(" ");
    parts.clock = parts.time.appendChild(make("span", "clock"));
    parts.version = cell("version");
    return parts;
  };

  const fill = (parts, node, current) => {
    const state = node.state in LOOKS ? node.state : "lost", ip = plain(node.ip), id = plain(node.id);
    if (parts.row.className.split(" ")[0] !== state) parts.row.className = state;
    put(parts.ip, ip);
    put(parts.port, `:${Number(node.port)}`);
    if (parts.copy.dataset.copy !== ip) { parts.copy.dataset.copy = ip; set(parts.copy, "aria-label", `Copy ${ip}`); }
    put(parts.name, plain(node.name));
    if (parts.leads !== node.leader) {
      parts.leads = node.leader;
      const badge = make("b");
      badge.append(sign("★"), " leader");
      parts.role.replaceChildren(node.leader ? badge : "follower");
    }
    put(parts.glyph, LOOKS[state]);
    put(parts.word, plain(node.state));
    // A mark is on the name, everything else on the instance: the younger counts.
    const told = [past.why.get(id), past.why.get(plain(node.name))].filter(Boolean).sort((a, b) => a.rank - b.rank), event = told[0];
    put(parts.why, state === "serving" || !event || event.event === "joined" ? "" : plain(event.reason));
    const joined = state === "serving" ? plain(node.since) : past.joined.get(id) || plain(node.since);
    const since = moment(joined);
    // Old news tell of nobody that is up.
    put(parts.up, state !== "serving" ? "" : !current || since === null || now() === null ? "unknown" : lasted(now() - since));
    const stamp = since === null ? "" : new Date(since).toISOString();
    if (parts.stamp !== stamp) {
      parts.stamp = stamp;
      set(parts.time, "datetime", stamp);
      put(parts.date, stamp.slice(0, 10));
      put(parts.clock, stamp.slice(11, 19));
    }
    put(parts.version, plain(node.version));
  };

  const showRows = (list, current) => {
    const first = rows.size === 0, wanted = list.nodes.slice(0, SHOWN), ids = new Set(wanted.map((node) => node.id));
    for (const [id, parts] of rows) if (!ids.has(id)) { parts.row.remove(); rows.delete(id); }
    const table = $("rows");
    if (first) table.replaceChildren();
    let at = table.firstElementChild;
    for (const node of wanted) {
      let parts = rows.get(node.id);
      if (!parts) {
        parts = newRow();
        rows.set(node.id, parts);
      }
      const fresh = !parts.row.parentNode && !first && wanted.length - rows.size < 20;
      fill(parts, node, current);
      if (fresh) parts.row.className += " new";
      if (parts.row === at) at = at.nextElementSibling;
      else table.insertBefore(parts.row, at);
    }
    if (!wanted.length) {
      if (!table.querySelector(".none")) {
        const row = make("tr", "none"), cell = row.appendChild(make("td", "", "No node is registered."));
        cell.colSpan = 7;
        table.replaceChildren(row);
      }
    } else for (const row of table.querySelectorAll(".none")) row.remove();
    put($("hidden-rows"), String(list.nodes.length - wanted.length));
    $("more").hidden = list.nodes.length <= wanted.length;
  };

  const showFreshness = () => {
    const best = freshest(), at = performance.now(), text = [];
    if (best && now() !== null) {
      const age = Math.max(0, now() - best.contact), left = Math.max(0, 1 - age / (best.bound || 5000));
      set($("left"), "width", (100 * left).toFixed(1));
      text.push(`Registry heard ${age < 1000 ? "less than 1 s" : lasted(age)} ago by ${nameOf(best.ip)}.`);
    }
    const by = lastBy ? `${nameOf(lastBy)} (${lastBy})` : "a node that does not name itself";
    text.push(`Last answer ${at - lastAnswer < 2000 ? "now" : `${lasted(at - lastAnswer)} ago`} from ${by}.`);
    put($("fresh"), text.join(" "));
  };

  /// Children of a list, each made anew only where its words have changed.
  const fillList = (list, items, build) => {
    items.forEach((item, n) => {
      const old = list.children[n], key = JSON.stringify(item);
      if (old && old.dataset.key === key) return;
      const node = build(item);
      node.dataset.key = key;
      if (old) old.replaceWith(node); else list.append(node);
    });
    while (list.children.length > items.length) list.lastElementChild.remove();
  };

  const order = (ip) => plain(ip).split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  const showChips = () => {
    const all = recent(RECENT).sort((a, b) => order(a.ip) - order(b.ip));
    const items = all.map((node) => ({ ...standing(node), name: nameOf(node.ip), revision: node.revision }));
    const trouble = items.filter((item) => item.kind === "stale" || item.kind === "behind");
    const wanted = items.length > CHIPS ? [...trouble, ...items.filter((item) => !trouble.includes(item))].slice(0, CHIPS) : items;
    const rest = items.length - wanted.length;
    if (rest) wanted.push({ kind: "asked", glyph: "+", name: `${rest} more`, word: "" });
    const agreeing = items.filter((item) => item.kind === "agrees").length;
    put($("asked"), `${agreeing} of the ${items.length} that answered in the last 30 seconds`);
    fillList($("chips"), wanted, (item) => {
      const revision = item.revision === undefined ? [] : [make("span", "number", `r${item.revision}`)];
      return line(item.kind, sign(item.glyph), make("b", "", item.name), ...revision, make("span", "word", item.word));
    });
  };

  const took = (event) => Number.isSafeInteger(event.took_ms) ? ` ${event.took_ms} ms` : "";
  const because = (event) => plain(event.reason) ? ` (${plain(event.reason)})` : "";
  /// Glyph, class and words of what happened; of a kind unknown here its own name.
  const told_of = (event) => {
    const who = plain(event.node) || plain(event.ip) || "a node";
    const after = took(event) && ` after${took(event)}`;
    switch (event.event) {
      case "joined": return ["●", "serving", `${who} joined`];
      case "draining": return ["◐", "draining", `${who} is draining${because(event)}`];
      case "left": return ["○", "gone", `${who} left: drained${took(event) && `, acknowledged in${took(event)}`}`];
      case "lost": return ["✕", "lost", `${who} found dead${after}${because(event)}`];
      case "reaped": return ["✕", "lost", `${who} lost: reaped${after}`];
      case "expired": return ["✕", "lost", `${who} lost: its lease expired`];
      case "withdrawn": return ["✕", "lost", `${who} withdrawn: its nginx does not answer`];
      case "superseded": return ["○", "gone", `${who} replaced: a younger instance has its address`];
      case "marked": return ["◐", "draining", `${who} marked by an operator${because(event)}`];
      case "unmarked": return ["●", "serving", `mark taken off ${who}`];
      case "leader-changed": return event.instance ? ["★", "leads", `${who} leads`] : ["★", "leads", "nobody leads"];
      case "gap": return ["…", "gone", "what happened before is not known"];
      default: return ["·", "gone", `${who}: ${plain(event.event)}`];
    }
  };

  const showGone = () => {
    const listed = new Set(shown.list ? shown.list.nodes.map((node) => node.id) : []), met = new Set(), items = [];
    for (const event of past.events) {
      const id = `${event.node}-${event.instance}`, at = moment(event.at);
      if (!["left", "reaped", "expired", "withdrawn", "superseded"].includes(event.event)) continue;
      if (met.has(id) || listed.has(id) || at === null || now() - at > REMEMBERED) continue;
      met.add(id);
      const [glyph, kind, words] = told_of(event);
      items.push({ glyph, kind, words, ago: `${lasted(now() - at)} ago` });
    }
    fillList($("gone"), items.length ? items.slice(0, EVENTS) : [{ words: "Nobody has left." }], (item) => {
      if (!item.kind) return make("li", "soft", item.words);
      return line(item.kind, sign(item.glyph), make("span", "words", item.words), make("span", "ago", item.ago));
    });
  };

  const showServed = () => {
    const count = new Map();
    for (const ip of served) count.set(ip, (count.get(ip) || 0) + 1);
    const all = [...count].sort((a, b) => order(a[0]) - order(b[0])), most = Math.max(1, ...count.values());
    const items = all.slice(0, BARS).map(([ip, number]) => ({ name: nameOf(ip), ip, number, part: number / most }));
    if (all.length > BARS) items.push({ name: `and ${all.length - BARS} more`, ip: "", number: "", part: 0 });
    put($("requests"), served.length < REQUESTS ? `your last ${many(served.length, "request")}` : "your last 100 requests");
    fillList($("served"), items, (item) => {
      const bar = draw("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
      bar.append(draw("rect", { class: "track", width: 100, height: 8 }), draw("rect", { class: "filled", width: (100 * item.part).toFixed(1), height: 8 }));
      return line("", make("span", "words", item.name), bar, make("span", "number", String(item.number)));
    });
  };

  // The number of serving nodes, walked back from now.
  const STEPS = { joined: 1, unmarked: 1, draining: -1, lost: -1, expired: -1, withdrawn: -1, superseded: -1, marked: -1 };
  const chart = { stamp: null, width: 600 };
  // Asking for a width in the middle of drawing would lay out everything twice.
  new ResizeObserver(([entry]) => { chart.width = Math.round(entry.contentRect.width); }).observe($("chart"));
  const showTimeline = (count) => {
    if (now() === null || !shown.list) return;
    fillList($("events"), past.events.slice(0, EVENTS).map((event) => {
      const [glyph, kind, words] = told_of(event), at = moment(event.at);
      return { glyph, kind, words, at: at === null ? "" : time(at), revision: Number(event.revision) };
    }), (item) => {
      return line(item.kind, make("time", "number", item.at), sign(item.glyph), make("span", "words", item.words), make("span", "number ago", `r${item.revision}`));
    });
    const svg = $("chart"), width = Math.max(240, chart.width), height = 140;
    const stamp = `${Math.floor(now() / 5000)} ${width} ${count.serving}`;
    if (chart.stamp === stamp) return;
    chart.stamp = stamp;
    // A young fleet fills the width all the same.
    const end = now(), oldest = past.events.length ? moment(past.events[past.events.length - 1].at) : null, points = [];
    const minutes = [1, 2, 5, 10].find((some) => oldest !== null && oldest > end - some * 50000) || 15, span = minutes * 60000;
    let level = count.serving, start = end - span, high = level, low = level;
    points.push([end, level]);
    for (const event of past.events) {
      const at = moment(event.at), step = STEPS[event.event] || 0;
      if (event.event === "gap" && at !== null) { start = Math.max(start, at); break; }
      if (at === null || !step) continue;
      if (at < start) break;
      points.push([Math.min(at, end), level], [Math.min(at, end), Math.max(0, level - step)]);
      level = Math.max(0, level - step);
      high = Math.max(high, level);
      low = Math.min(low, level);
    }
    points.push([start, level]);
    const top = Math.max(1, high) * 1.15, edge = { left: 34, right: 6, top: 8, bottom: 22 };
    const x = (at) => edge.left + (width - edge.left - edge.right) * (1 - (end - at) / span);
    const y = (value) => edge.top + (height - edge.top - edge.bottom) * (1 - value / top);
    const path = points.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join(" L ");
    svg.replaceChildren();
    set(svg, "viewBox", `0 0 ${width} ${height}`);
    const marks = [...new Set([0, Math.round(high / 2), high])];
    for (const value of marks) {
      svg.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }),
        draw("text", { x: edge.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    }
    for (const part of [1, 2 / 3, 1 / 3, 0]) {
      svg.append(draw("text", { x: x(end - part * span), y: height - 4, "text-anchor": part === 1 ? "start" : part ? "middle" : "end" },
        part ? `${lasted(Math.round(part * span / 1000) * 1000).replace(/ 0 s$/, "in")} ago` : "now"));
    }
    svg.append(draw("path", { class: "area", d: `M ${path} L ${x(start).toFixed(1)} ${y(0)} L ${x(end).toFixed(1)} ${y(0)} Z` }),
      draw("path", { class: "line", d: `M ${path}` }), draw("circle", { class: "dot", cx: x(end), cy: y(count.serving), r: 4 }));
    set(svg, "aria-label", `In the last ${many(minutes, "minute")} ${low === high ? low : `between ${low} and ${high}`} nodes were serving.`);
  };

  // Hands.
  const copy = async (text, button) => {
    try {
      if (!navigator.clipboard) throw new Error("no clipboard without a secure origin");
      await navigator.clipboard.writeText(text);
    } catch {
      const field = make("textarea", "spoken", text);
      body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
    put($("spoken"), `Copied ${text}`);
    spoken.at = performance.now();
  };

  const guard = (act) => {
    try { act(); } catch (error) {
      // What cannot be drawn must not go on looking well.
      broken = true;
      clearTimeout(timer);
      clearInterval(ticker);
      body.className = "stale";
      put($("glyph"), "?");
      put($("word"), "Broken page");
      put($("sentence"), "This page cannot show what it was told. Reload it.");
      document.title = `? Broken page · ${fleet}`;
      console.error(error);
    }
  };

  const halt = () => { clearTimeout(timer); clearInterval(ticker); };
  const go = () => {
    halt();
    if (broken) return;
    resumed = performance.now();
    ticker = setInterval(() => guard(show), 1000);
    poll();
  };

  $("pause").addEventListener("click", () => {
    paused = !paused;
    set($("pause"), "aria-pressed", String(paused));
    put($("pause"), paused ? "Resume" : "Pause");
    if (paused) { halt(); guard(show); } else go();
  });
  $("refresh").addEventListener("click", () => { failures = 0; poll(); });
  $("rows").addEventListener("click", (click) => {
    const button = click.target.closest("button.copy");
    if (button) copy(button.dataset.copy, button);
  });
  $("copy-command").addEventListener("click", () => copy($("command").textContent, $("copy-command")));
  document.addEventListener("visibilitychange", () => {
    if (paused || broken) return;
    if (!document.hidden) return go();
    halt();
    document.title = `‖ Not watched · ${fleet}`;
  });

  document.documentElement.classList.add("live");
  document.documentElement.dataset.beat = "0";
  if (document.hidden) document.title = `‖ Not watched · ${fleet}`; else go();
})();
