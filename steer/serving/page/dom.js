// Builds elements. Text only ever becomes text: nothing here parses markup.

/** An element. props: attributes, `on` for listeners, `class` for its class; children: elements or texts. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "class") {
      element.className = value;
    } else if (["value", "checked", "disabled", "hidden", "open", "selected", "readOnly"].includes(name)) {
      element[name] = value;
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

let labels = 0;

/** A control under its label. */
export function field(label, control, hint = "") {
  const id = `field-${++labels}`;
  control.id = id;
  const parts = [h("label", { for: id }, label), control];
  if (hint) {
    control.setAttribute("aria-describedby", `${id}-hint`);
    parts.push(h("p", { class: "hint", id: `${id}-hint` }, hint));
  }
  return h("div", { class: "field" }, ...parts);
}

/** A choice among [value, label] pairs. */
export function select(pairs, value, onChange, props = {}) {
  const options = pairs.map(([own, label]) => h("option", { value: own, selected: own === value }, label));
  const element = h("select", { ...props, on: { change: () => onChange(element.value) } }, ...options);
  element.value = value;
  return element;
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

/** A modal dialog with a title and a close button; returns it, shown. */
export function dialog(title, ...content) {
  const close = h("button", { type: "button", class: "quiet close", "aria-label": "Close", on: { click: () => element.close() } }, "×");
  const element = h("dialog", { "aria-label": title, on: { close: () => element.remove() } },
    h("header", {}, h("h2", {}, title), close), ...content);
  document.body.append(element);
  element.showModal();
  return element;
}

/** Put a text on the clipboard, and say so on the button. */
export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select the text and copy it";
  }
  announce(button.textContent);
  setTimeout(() => { button.textContent = before; }, 1500);
}

/** A number without trailing zeros. */
export const short = (value, digits = 2) => String(Number(value.toFixed(digits)));
