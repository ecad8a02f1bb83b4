// Whether everything on the page can be read: nothing sticks out, nothing lies on something else, nothing is cut off.

/** Sentences about what is wrong with the layout of the page as it stands. */
export function layoutFaults(page) {
  return page.evaluate(() => {
    const faults = [];
    const name = (node) => node.dataset.testid ?? node.id ?? `${node.tagName} ${node.textContent.trim().slice(0, 30)}`;
    const box = (node) => node.getBoundingClientRect();
    const visible = (node) => node.checkVisibility({ visibilityProperty: true }) && box(node).width > 0 && !node.closest(".unseen, .skip");

    if (document.documentElement.scrollWidth > innerWidth) {
      faults.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${innerWidth} px`);
    }

    // What holds text may neither leave the card it stands in nor be cut; only long names end in dots on purpose.
    const texts = [...document.querySelectorAll("body *")].filter(
      (node) => visible(node) && [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim() !== ""),
    );
    for (const node of texts) {
      const { left, right, top, bottom } = box(node);
      const card = node.closest(".tile, .health, .top, .nothing, .banner");
      const pre = node.closest("pre");
      if (card !== null && pre === null && !node.matches(".hint")) {
        const around = box(card);
        if (left < around.left - 1 || right > around.right + 1 || top < around.top - 4 || bottom > around.bottom + 1) {
          faults.push(`${name(node)} sticks out of ${name(card) || card.className}`);
        }
      }
      if (node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0 && !node.matches(".label") && pre === null) {
        faults.push(`${name(node)} is cut off`);
      }
    }

    const overlap = (a, b) => {
      const [one, other] = [box(a), box(b)];
      return Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1
        && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 1;
    };
    for (const [index, one] of texts.entries()) {
      for (const other of texts.slice(index + 1)) {
        if (!one.contains(other) && !other.contains(one) && !one.matches(".hint, option") && !other.matches(".hint, option") && overlap(one, other)) {
          faults.push(`${name(one)} and ${name(other)} overlap`);
        }
      }
    }
    const parts = [...document.querySelectorAll(".tile, .health, .top, .nothing, .banner, .chart, .bars, footer")].filter(visible);
    for (const [index, one] of parts.entries()) {
      for (const other of parts.slice(index + 1)) {
        if (!one.contains(other) && !other.contains(one) && overlap(one, other)) {
          faults.push(`${name(one)} and ${name(other)} overlap`);
        }
      }
    }

    // Contrast of every text against the nearest opaque ground (WCAG AA).
    const channels = (text) => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((each) => (each / 255 <= 0.03928 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (node) => {
      for (let each = node; each !== null; each = each.parentElement) {
        const colour = channels(getComputedStyle(each).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) {
          return colour;
        }
      }
      return [255, 255, 255];
    };
    for (const node of texts) {
      const [ink, paper] = [light(channels(getComputedStyle(node).color)), light(ground(node))];
      const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      if (ratio < 4.5) {
        faults.push(`${name(node)} has a contrast of ${ratio.toFixed(1)}, readable from 4.5`);
      }
    }
    return [...new Set(faults)];
  });
}
