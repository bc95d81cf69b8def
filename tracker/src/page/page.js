// Draws the tracker's JSON API. Everything a client chose (names, client ids) goes through
// textContent, never through markup. Rows are reused, so focus and scroll stay where they are.
"use strict";

const EVERY = 2000, STEP = 50, DETAILS = 20, STUCK = 20;
const $ = id => document.getElementById(id);
const rows = new Map();   // info hash → {item, parts, open, detail}
let limit = STEP, timer = 0, asked = 0;

const bytes = n => {
  if (n == null) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let u = 0;
  while (n >= 1024 && u < 4) { n /= 1024; u++; }
  return `${u && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[u]}`;
};
const count = (n, one, many) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (parent) parent.append(node);
  return node;
}
function put(node, text) { if (node.textContent !== text) node.textContent = text; }

async function ask(path) {
  const reply = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  if (!reply.ok) throw new Error(`${path}: ${reply.status}`);
  return reply.json();
}

function bar(node, share, state) {
  node.className = `bar ${state || ""}`;
  const percent = Math.floor(share * 100);
  node.setAttribute("role", "progressbar");
  node.setAttribute("aria-valuenow", percent);
  node.setAttribute("aria-valuemin", 0);
  node.setAttribute("aria-valuemax", 100);
  (node.firstChild || make("i", "", node)).style.width = `${share * 100}%`;
}

function rowOf(hash) {
  let row = rows.get(hash);
  if (row) return row;
  const item = make("li");
  const head = make("button", "swarm", item);
  head.type = "button";
  head.setAttribute("aria-expanded", "false");
  const parts = { head };
  for (const name of ["names", "size", "digest", "counts", "bar"]) parts[name] = make("span", name, head);
  row = { item, parts, open: false, detail: null, hosts: null };
  head.addEventListener("click", () => {
    row.open = !row.open;
    head.setAttribute("aria-expanded", String(row.open));
    if (!row.open && row.hosts) { row.hosts.remove(); row.hosts = null; }
    refresh();
  });
  rows.set(hash, row);
  return row;
}

function median(values) {
  const sorted = values.slice().sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : 0;
}

// A host is stuck when it got no nearer to the end for a while, slow when it is far behind the
// rates of the others.
function stateOf(peer, usual) {
  if (peer.seed) return "done";
  if (peer.stalled_seconds != null && peer.stalled_seconds >= STUCK) return "stuck";
  if (usual > 0 && peer.rate > 0 && peer.rate * 4 < usual) return "slow";
  return "";
}

function drawHosts(row) {
  const { peers, origin_addrs: origins, total_peers: total } = row.detail;
  if (!row.hosts) row.hosts = make("ul", "hosts", row.item);
  const usual = median(peers.filter(p => !p.seed && p.rate > 0).map(p => p.rate));
  const lines = origins.map(addr => ({ who: addr, share: 1, state: "done", how: "origin" }));
  const order = { stuck: 0, slow: 1, "": 2, done: 3 };
  for (const peer of peers) {
    const state = stateOf(peer, usual);
    const share = peer.progress ?? 0;
    const rate = peer.rate > 0 ? `${bytes(peer.rate)}/s` : "";
    const how = { done: "complete", stuck: `stalled ${peer.stalled_seconds} s`, slow: `slow, ${rate}` }[state]
      ?? `${Math.floor(share * 100)} %${rate && ", " + rate}`;
    lines.push({ who: peer.addr, share, state, how, title: peer.client || peer.id });
  }
  lines.sort((a, b) => order[a.state] - order[b.state] || a.share - b.share || a.who.localeCompare(b.who));
  if (total > peers.length) lines.push({ who: `and ${total - peers.length} more`, share: null, how: "" });
  while (row.hosts.children.length > lines.length) row.hosts.lastChild.remove();
  lines.forEach((line, n) => {
    let node = row.hosts.children[n];
    if (!node) {
      node = make("li", "", row.hosts);
      for (const name of ["who", "bar", "how"]) make("span", name, node);
    }
    const [who, meter, how] = node.children;
    put(who, line.who);
    who.title = line.title || "";
    meter.hidden = line.share == null;
    if (line.share != null) bar(meter, line.share, line.state);
    how.className = `how ${line.state || ""}`;
    put(how, line.how);
  });
}

function drawSwarm(swarm) {
  const row = rowOf(swarm.info_hash), p = row.parts;
  put(p.names, swarm.names.length ? swarm.names.join("  ") : swarm.label || swarm.info_hash);
  put(p.digest, swarm.names.length ? swarm.label || swarm.info_hash : swarm.info_hash);
  put(p.size, bytes(swarm.length));
  put(p.counts, `${count(swarm.leechers, "host downloads", "hosts download")}, ${count(swarm.seeds, "copy", "copies")}`);
  const peers = row.detail && swarm.leechers ? row.detail.peers : [];
  const shares = peers.map(peer => peer.progress ?? 0);
  const share = shares.length ? shares.reduce((a, b) => a + b, 0) / shares.length : swarm.seeds ? 1 : 0;
  const usual = median(peers.filter(q => !q.seed && q.rate > 0).map(q => q.rate));
  const states = peers.map(peer => stateOf(peer, usual));
  const worst = states.includes("stuck") ? "stuck" : states.includes("slow") ? "slow" : "";
  bar(p.bar, share, swarm.leechers ? worst : swarm.seeds ? "done" : "");
  p.head.setAttribute("aria-label",
    `${p.names.textContent}, ${p.size.textContent}, ${p.counts.textContent}, ${Math.floor(share * 100)} percent`);
  if (row.open && row.detail) drawHosts(row);
  return row.item;
}

async function refresh() {
  clearTimeout(timer);
  const turn = ++asked;
  try {
    const query = new URLSearchParams({ limit });
    if ($("search").value.trim()) query.set("search", $("search").value.trim());
    if ($("active").checked) query.set("active", "true");
    const [status, list] = await Promise.all([ask("api/status"), ask(`api/swarms?${query}`)]);
    const swarms = list.swarms.sort((a, b) => b.leechers - a.leechers || (b.length ?? 0) - (a.length ?? 0)
      || a.info_hash.localeCompare(b.info_hash));
    const wanted = swarms.filter(s => rows.get(s.info_hash)?.open || s.leechers).slice(0, DETAILS);
    await Promise.all(wanted.map(async s => {
      const detail = await ask(`api/swarms/${s.info_hash}?limit=200`).catch(() => null);
      rowOf(s.info_hash).detail = detail;
    }));
    if (turn !== asked) return;
    put($("n-swarms"), status.swarms.toLocaleString());
    put($("n-leechers"), status.leechers.toLocaleString());
    put($("n-seeds"), status.seeds.toLocaleString());
    put($("n-origins"), status.origins.filter(o => o.live).length.toLocaleString());
    const items = swarms.map(drawSwarm);
    const keep = new Set(swarms.map(s => s.info_hash));
    for (const [hash, row] of rows) if (!keep.has(hash)) { row.item.remove(); rows.delete(hash); }
    items.forEach((item, n) => {
      const there = $("swarms").children[n];
      if (there !== item && !item.contains(document.activeElement)) $("swarms").insertBefore(item, there || null);
    });
    $("empty").hidden = items.length > 0;
    $("more").hidden = !list.next;
    $("health").className = "";
    put($("health"), `live, version ${status.version}`);
  } catch (error) {
    if (turn !== asked) return;
    $("health").className = "bad";
    put($("health"), "the tracker does not answer; trying again");
  }
  timer = setTimeout(refresh, EVERY);
}

let typing = 0;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(refresh, 200); });
$("active").addEventListener("change", refresh);
$("filter").addEventListener("submit", event => { event.preventDefault(); refresh(); });
$("more").addEventListener("click", () => { limit += STEP; refresh(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
