// Runs before the page's own script: notes what it is told, what it shows after each drawing, and when it speaks.
// `change` has functions that make another answer of what a file says.
(() => {
  const seen = window.seen = { lists: {}, drawn: {}, wrong: [], spoken: [], violations: [], back: [] };
  const ask = window.fetch, change = window.change = {};
  window.fetch = async (...what) => {
    let answer = await ask(...what);
    if (change[what[0]] && answer.ok) {
      const headers = new Headers(answer.headers);
      answer = new Response(JSON.stringify(change[what[0]](await answer.json(), headers) ?? null), { headers });
    }
    const list = what[0] === "ips.json" && answer.ok && await answer.clone().json();
    if (list && Array.isArray(list.nodes)) {
      seen.lists[list.revision] = list.nodes.map((node) => `${node.ip} ${node.name} ${node.state} ${node.leader ? "leader" : "follower"}`);
    }
    return answer;
  };
  const cell = (row, name) => row.querySelector(name).textContent.trim().replace("★ ", "");
  let last = -1;
  new PerformanceObserver(() => {
    const revision = document.getElementById("revision").textContent, told = seen.lists[revision];
    if (Number(revision) < last) seen.back.push(`${last} to ${revision}`);
    last = Number(revision);
    const rows = [...document.querySelectorAll("#rows tr:not(.none)")].map((row) =>
      `${cell(row, ".ip")} ${cell(row, ".name")} ${cell(row, ".pill").split(" ")[1]} ${cell(row, ".role")}`);
    seen.drawn[revision] = rows;
    if (told && JSON.stringify(told.slice(0, 500)) !== JSON.stringify(rows)) seen.wrong.push({ revision, told, rows });
  }).observe({ entryTypes: ["measure"] });
  document.addEventListener("securitypolicyviolation", (event) => seen.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => seen.spoken.push([performance.now(), document.getElementById("spoken").textContent]))
      .observe(document.getElementById("spoken"), { childList: true, characterData: true, subtree: true });
  });
})();
