// The card of a token: its projections, its probability, and the alternatives.

import { byId, h, short } from "./dom.js";
import { can } from "./settings.js";

let shown = null; // { view, index, pinned }
const visible = (text) => (text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣"));
const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return value >= 99.95 ? "100 %" : value >= 10 ? `${value.toFixed(0)} %` : value >= 0.1 ? `${value.toFixed(1)} %` : "< 0.1 %";
};

/** Show the card of a view's tokens: under the pointer, by touch, by keyboard. */
export function attach(view) {
  const indexOf = (event) => view.spans.indexOf(event.target.closest?.(".token"));
  view.text.addEventListener("pointerover", (event) => {
    const index = indexOf(event);
    if (index >= 0 && event.pointerType === "mouse" && !shown?.pinned) show(view, index, false);
  });
  view.text.addEventListener("pointerleave", () => { if (shown && !shown.pinned) hide(); });
  view.text.addEventListener("click", (event) => {
    const index = indexOf(event);
    if (index >= 0 && getSelection().isCollapsed) show(view, index, true);
  });
  view.text.addEventListener("keydown", (event) => {
    const at = shown?.view === view ? shown.index : -1;
    const go = { ArrowRight: at + 1, ArrowLeft: Math.max(at - 1, 0), Home: 0, End: view.spans.length - 1 }[event.key];
    if (go !== undefined && view.spans[go]) {
      event.preventDefault();
      show(view, go, false);
    } else if (event.key === "Enter" && at >= 0) {
      event.preventDefault();
      show(view, at, true);
      byId("card").querySelector("button")?.focus();
    }
  });
  view.text.addEventListener("blur", () => { if (shown?.view === view && !shown.pinned) hide(); });
}

export function hide() {
  if (!shown) return;
  shown.view.spans[shown.index]?.classList.remove("active");
  const back = shown.pinned && byId("card").contains(document.activeElement) ? shown.view.text : null;
  shown = null;
  byId("card").hidden = true;
  back?.focus();
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
document.addEventListener("pointerdown", (event) => {
  if (shown?.pinned && !byId("card").contains(event.target) && !event.target.closest?.(".token")) hide();
});

function show(view, index, pinned) {
  hide();
  shown = { view, index, pinned };
  const span = view.spans[index];
  span.classList.add("active");
  const token = view.answer.tokens[index];
  const card = byId("card");
  const parts = [h("p", { class: "what" }, h("code", {}, visible(token.text)), token.logprob === null ? "" : ` ${percent(token.logprob)}`)];
  for (const [name, read] of Object.entries(token.watched ?? {})) {
    parts.push(h("p", { class: "reading" }, h("span", {}, `${name}, layer ${read.layer}`), h("strong", {}, short(read.value))));
  }
  const others = token.top.filter((other) => other.id !== token.id || other.id === null && other.text !== token.text);
  if (others.length) {
    const branching = pinned && can("prefill") && view.answer.state === "done";
    parts.push(h("p", { class: "hint" }, branching ? "Go on from another token:" : pinned ? "Also likely:" : "Also likely (click for more):"));
    parts.push(h("ul", { class: "others" }, ...others.map((other) => h("li", {}, alternative(view, index, other, branching)))));
  }
  card.setAttribute("aria-label", `Token ${visible(token.text)}`);
  card.setAttribute("aria-live", pinned ? "off" : "polite");
  card.replaceChildren(...parts);
  card.hidden = false;
  place(card, span);
}

function alternative(view, index, other, branching) {
  const bar = h("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${100 * Math.exp(other.logprob)}%`;
  const inside = [bar, h("code", {}, visible(other.text)), h("span", { class: "share" }, percent(other.logprob))];
  if (!branching || other.id === null) return h("span", { class: "other" }, ...inside);
  return h("button", { type: "button", class: "other", "aria-label": `Go on from ${visible(other.text)}, ${percent(other.logprob)}`,
    on: { click: () => { hide(); view.onBranch(index, other); } } }, ...inside);
}

/** Place the card beside the token, inside the window. */
function place(card, span) {
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const width = card.offsetWidth;
  const height = card.offsetHeight;
  const left = Math.max(8, Math.min(box.left, innerWidth - width - 8));
  const below = box.bottom + 6;
  const top = below + height > innerHeight - 8 && box.top - height - 6 > 8 ? box.top - height - 6 : below;
  card.style.left = `${left + scrollX}px`;
  card.style.top = `${top + scrollY}px`;
}

addEventListener("scroll", () => { if (shown && !shown.pinned) hide(); }, true);
