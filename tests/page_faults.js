// What a visitor with other eyes or no mouse would stumble over; a function for page.evaluate.
() => {
  const parts = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);

  // The colour of the nearest opaque background.
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const seen = (one) => {
    const { width, height } = one.getBoundingClientRect();
    return width > 2 && height > 2 && !one.disabled &&
      one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const shows = (one) =>
    one.placeholder || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const name = (one) =>
    one.ariaLabel || one.textContent.trim() || [...(one.labels ?? [])].map((l) => l.textContent)[0];

  const faults = [];
  for (const one of document.querySelectorAll("body *")) {
    if (!shows(one) || !seen(one)) continue;
    const style = getComputedStyle(one, one.placeholder && !one.value ? "::placeholder" : null);
    const [a, b] = [light(parts(style.color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      faults.push(`contrast ${ratio.toFixed(2)}: ${one.outerHTML.slice(0, 90)}`);
  }
  for (const one of document.querySelectorAll("button, a, input, textarea, [role=img]"))
    if (!name(one)) faults.push(`no name: ${one.outerHTML.slice(0, 90)}`);
  for (const one of document.querySelectorAll("img"))
    if (!one.hasAttribute("alt")) faults.push(`no alt: ${one.outerHTML.slice(0, 90)}`);
  return faults;
}
