// What is wrong with the page that is shown: controls that a screen reader has no name for, and
// texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, level AA).
() => {
  const problems = [];
  for (const element of document.querySelectorAll("button, input, select, textarea, [role]")) {
    const own = element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") || element.textContent.trim();
    const labels = [...(element.labels ?? [])].some((label) => label.textContent.trim());
    if (element.checkVisibility() && element.id !== "status" && !own && !labels) problems.push(`no name: ${element.outerHTML.slice(0, 120)}`);
  }

  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
  const part = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * part(r / 255) + 0.7152 * part(g / 255) + 0.0722 * part(b / 255);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest(".hidden, .skip, :disabled, noscript, option")) continue;
    const back = behind(element);
    const ink = over(rgba(getComputedStyle(element).color), back);
    const [high, low] = [luminance(ink), luminance(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(2)}: ${text.slice(0, 40)} (${element.className})`);
  }
  return [...new Set(problems)];
}
