// Runs before the page's own script: notes what it is told, what it shows after each drawing, and when it speaks.
(() => {
  const seen = window.seen = { lists: {}, drawn: {}, wrong: [], spoken: [], violations: [], back: [] };
  const ask = window.fetch;
  window.fetch = async (...what) => {
    const answer = await ask(...what);
    if (what[0] === "ips.json" && answer.ok) {
      const list = await answer.clone().json();
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
