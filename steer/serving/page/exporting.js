// The settings in forms for other tools.

import { copy, dialog, h } from "./dom.js";
import * as settings from "./settings.js";

const FORMS = [["Command line", settings.applyLine], ["Recipe", settings.recipe], ["Python", settings.pythonCode], ["Request", settings.requestBody]];

/** Show the settings as a line for a shell, a recipe, Python or the body of a request. */
export function showExport(prompt) {
  const text = h("textarea", { rows: 14, readOnly: true, class: "code", "aria-label": "The settings", spellcheck: "false" });
  const button = h("button", { type: "button", class: "primary", on: { click: () => { text.select(); copy(text.value, button); } } }, "Copy");
  const show = (make) => { try { text.value = make(prompt); } catch (error) { text.value = error.message; } };
  const tabs = FORMS.map(([label, make], index) => {
    const input = h("input", { type: "radio", name: "form", checked: index === 0, on: { change: () => show(make) } });
    return h("label", {}, input, h("span", {}, label));
  });
  show(FORMS[0][1]);
  dialog("Export the settings", h("fieldset", { class: "segments" }, h("legend", { class: "hidden" }, "Form"), ...tabs), text, h("div", { class: "row end" }, button));
}
