// What a page must have for a screen reader and for weak eyes. Returns sentences about what is missing.
() => {
  const problems = [];
  const shown = (one) => one.checkVisibility({ visibilityProperty: true });
  const told = (one) => one.outerHTML.replace(/\s+/g, " ").slice(0, 140);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const need = (good, sentence) => good || problems.push(sentence);

  const nameOf = (one) => {
    const by = (one.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    const named = by.map((id) => document.getElementById(id)?.textContent || "").join(" ");
    const labels = [...(one.labels || [])].map((label) => label.textContent).join(" ");
    return (named || one.getAttribute("aria-label") || labels || one.textContent || one.title || "").trim();
  };

  need(document.documentElement.lang, "the page names no language");
  need(document.title.trim(), "the page has no title");
  need(all("main").length === 1, "the page must have one main landmark");
  need(all("h1").length === 1, "the page must have one first heading");
  let level = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6").filter(shown)) {
    const next = Number(heading.tagName[1]);
    need(next <= level + 1, `a level is skipped before: ${told(heading)}`);
    need(heading.textContent.trim(), `an empty heading: ${told(heading)}`);
    level = next;
  }
  for (const control of all("input:not([type=hidden]), textarea, select")) {
    const named = control.labels?.length || control.getAttribute("aria-label") || control.getAttribute("aria-labelledby");
    need(named, `without a label: ${told(control)}`);
  }
  for (const one of all("button, a[href], summary, svg[role=img], [role=group], nav, section")) {
    need(nameOf(one), `without a name: ${told(one)}`);
  }
  for (const image of all("img")) need(image.hasAttribute("alt"), `without a text: ${told(image)}`);
  for (const cell of all("th")) need(cell.scope, `a heading of what: ${told(cell)}`);
  const ids = all("[id]").map((one) => one.id);
  for (const id of ids) need(ids.indexOf(id) === ids.lastIndexOf(id), `two elements have the id ${id}`);
  for (const attribute of ["aria-labelledby", "aria-describedby"]) {
    for (const one of all(`[${attribute}]`)) {
      for (const id of one.getAttribute(attribute).split(/\s+/)) {
        need(document.getElementById(id), `${attribute} names ${id}, which is nowhere: ${told(one)}`);
      }
    }
  }
  for (const one of all("[tabindex]")) need(one.tabIndex <= 0, `a positive tabindex: ${told(one)}`);

  // Contrast (WCAG 2.2, 1.4.3): 4.5, large text 3.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    draw.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      draw.fillStyle = colour;
      draw.fillRect(0, 0, 1, 1);
    }
    return [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = (one) => {
    const found = [];
    for (let at = one; at; at = at.parentElement) found.unshift(getComputedStyle(at).backgroundColor);
    return ["Canvas", ...found];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || seen.has(one) || !shown(one) || one.closest("script, style, .quiet, :disabled, svg title, svg desc")) continue;
    seen.add(one);
    const style = getComputedStyle(one);
    // A dot that breathes does so beside its word; what is read is at rest.
    const ground = grounds(one);
    const ink = one.closest("svg") ? style.fill : style.color;
    const [over, under] = [light(paint([...ground, ink])), light(paint(ground))].sort((a, b) => b - a);
    const ratio = (over + 0.05) / (under + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    need(ratio >= (large ? 3 : 4.5), `contrast ${ratio.toFixed(2)}: ${told(one)}`);
  }
  return problems;
}
