// What a reader needs, asked of the page as it stands: everything that is wrong, in words.
() => {
  const wrong = [], shown = (node) => node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const channel = (value) => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05); };
  const solid = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const stripes = (node) => {
    const colours = [], body = node.closest("tbody"), image = body ? getComputedStyle(body).backgroundImage : "none";
    for (const found of image.match(/rgb\([^)]*\)/g) || []) colours.push(parse(found));
    return colours;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !shown(node) || node.closest("script, style, noscript, [aria-hidden=true], .spoken")) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const ink = parse(node.closest("svg") ? style.fill : style.color), large = size >= 24 || (bold && size >= 18.66);
    for (const ground of [solid(node), ...stripes(node)]) {
      const ratio = contrast(ink, ground);
      if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)} of "${text.data.trim().slice(0, 30)}" (${style.color} on ${ground})`);
    }
  }
  const named = (node) => node.getAttribute("aria-label") || node.textContent.trim() || document.getElementById(node.getAttribute("aria-labelledby"));
  for (const node of document.querySelectorAll("button, a, [tabindex], [role=img], [role=region], section, nav")) {
    if (shown(node) && !named(node)) wrong.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  for (const node of document.querySelectorAll("button")) {
    const box = node.getBoundingClientRect();
    if (shown(node) && (box.width < 24 || box.height < 24)) wrong.push(`small: ${node.outerHTML.slice(0, 60)} ${box.width} x ${box.height}`);
  }
  for (const node of document.querySelectorAll("svg")) {
    if (node.getAttribute("aria-hidden") !== "true" && node.getAttribute("role") !== "img") wrong.push("an svg that says nothing");
  }
  for (const node of document.querySelectorAll("[aria-labelledby]")) {
    if (!document.getElementById(node.getAttribute("aria-labelledby"))) wrong.push("a label that is not there");
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of ids.filter((id, n) => ids.indexOf(id) !== n)) wrong.push(`two with the id ${id}`);
  for (const node of document.querySelectorAll("th")) if (!node.scope) wrong.push("a heading of the table without scope");
  const once = { main: 1, h1: 1, caption: 1, title: 1, "[role=status]": 1 };
  for (const [what, count] of Object.entries(once)) {
    if (document.querySelectorAll(what).length !== count) wrong.push(`not one ${what}`);
  }
  if (document.documentElement.lang !== "en") wrong.push("no language");
  if (document.querySelector("[style]")) wrong.push("a style attribute");
  if (document.scrollingElement.scrollWidth > innerWidth) wrong.push(`wider than its window: ${document.scrollingElement.scrollWidth} > ${innerWidth}`);
  return [...new Set(wrong)];
}
