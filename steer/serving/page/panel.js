// The side panel: vectors, recipes and sampling.

import { announce, byId, field, h, select, short } from "./dom.js";
import { about, active, activeRecipes, can, coefficient, layersOf, opOf, own, settings, steers, summary } from "./settings.js";

const OPS = [["", "as recommended"], ["add", "add"], ["norm=keep", "add, keep the length"], ["ablate", "remove"], ["clamp", "set to"],
  ["cap", "at most"], ["floor", "at least"], ["rotate", "turn by degrees"]];
const SCOPES = [["", "as recommended"], ["all", "the whole text"], ["response", "the response"], ["prompt", "the prompt"]];
const LARGEST = 3;

let changed = () => {};
let actions = {};
let query = "";

/** Build the panel. onChange: called after each change. handlers: `make` and `strip` open dialogs. */
export function build(onChange, handlers) {
  changed = onChange;
  actions = handlers;
  draw();
}

/** Draw it again, after the server's vectors have changed. */
export function draw() {
  byId("panel").replaceChildren(vectors(), about.recipes.length ? recipes() : "", drawing(), system(), guards(), third());
  count();
}

/** Show how many vectors and recipes are on. */
export function count() {
  const names = [...activeRecipes(), ...active()];
  if (!document.body.classList.contains("panel-open")) byId("toggle").textContent = names.length ? `Steering · ${names.length}` : "Steering";
  const heading = byId("on-count");
  if (heading) heading.textContent = names.length ? `${names.length} on` : "none on";
}

function touch() {
  count();
  changed();
}

function vectors() {
  const list = h("ul", { class: "vectors", id: "vectors" });
  const fill = () => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = about.vectors.filter((vector) => words.every((word) => `${vector.id} ${vector.description}`.toLowerCase().includes(word)));
    list.replaceChildren(...shown.map((vector) => card(vector)));
    if (!shown.length && about.vectors.length) list.append(h("li", { class: "empty" }, `No vector is called “${query}”.`));
  };
  fill();
  const search = h("input", { type: "search", class: "search", placeholder: "Search vectors", "aria-label": "Search vectors", value: query,
    on: { input: () => { query = search.value; fill(); } } });
  const make = can("make") ? h("button", { type: "button", class: "quiet", on: { click: actions.make } }, "New vector") : null;
  const nothing = about.vectors.length ? null : h("p", { class: "empty" },
    can("make") ? "There is no vector for this model yet. Make one from two words, or from a few pairs of texts." : "This server has no vectors.");
  return h("section", { "aria-labelledby": "vectors-title" },
    h("div", { class: "row" }, h("h2", { id: "vectors-title" }, "Vectors"), h("span", { class: "muted", id: "on-count" }), h("span", { class: "grow" }), make),
    about.vectors.length > 5 ? search : null, nothing, list);
}

function card(vector) {
  const chosen = own(vector.id);
  const title = `vector-${vector.id}`;
  const power = h("button", { type: "button", role: "switch", class: "switch", "aria-checked": String(chosen.on), "aria-labelledby": title,
    on: { click: () => turn(!chosen.on) } });
  const limit = vector.limit ?? null;
  const [low, high] = range(vector);
  const fill = h("div", { class: "fill" });
  const slider = h("input", { type: "range", min: low, max: high, step: 0.1, value: chosen.times, "aria-label": `Strength of ${vector.id}, in times recommended` });
  const number = h("input", { type: "number", step: 0.1, value: chosen.times, "aria-label": `Strength of ${vector.id} as a number` });
  const amount = h("p", { class: "amount muted" });
  const item = h("li", { class: "vector" });

  function turn(on) {
    chosen.on = on;
    power.setAttribute("aria-checked", String(on));
    item.classList.toggle("on", on);
    touch();
  }
  function show() {
    const layers = chosen.layers.trim() ? chosen.layers : ranges(vector.recommended.layers);
    const verb = { add: "adds", "norm=keep": "adds", ablate: "removes" }[opOf(vector.id)] ?? `${opOf(vector.id)},`;
    const where = `at layer${/[,–-]|all/.test(layers) ? "s" : ""} ${layers}`;
    const value = coefficient(vector.id);
    let size = typeof value === "string" ? `${short(Number.parseFloat(value), 1)} % of the activation's length` : short(value);
    if (verb === "adds" && typeof value === "number") size += " × the vector";
    amount.textContent = `${verb} ${size} ${where}`;
    const share = (value) => (100 * (Math.max(low, Math.min(high, value)) - low)) / (high - low);
    fill.style.left = `${Math.min(share(0), share(chosen.times))}%`;
    fill.style.width = `${Math.abs(share(chosen.times) - share(0))}%`;
    const beyond = limit !== null && Math.abs(chosen.times) >= limit;
    item.classList.toggle("beyond", beyond);
    if (beyond) amount.textContent += " · too much, the sweep found";
    else if (Math.abs(chosen.times) > 1 && limit === null) amount.textContent += " · how far it holds was not measured";
    slider.setAttribute("aria-valuetext", `${short(chosen.times)} times recommended${beyond ? ", where the sweep found it too costly" : ""}`);
  }
  function set(value) {
    if (!Number.isFinite(value)) return;
    chosen.times = Math.max(-100, Math.min(100, value));
    if (document.activeElement !== slider) slider.value = chosen.times;
    if (document.activeElement !== number) number.value = short(chosen.times);
    show();
    if (!chosen.on && chosen.times) turn(true);
    else touch();
  }
  slider.addEventListener("input", () => set(slider.valueAsNumber));
  number.addEventListener("input", () => set(number.valueAsNumber));

  const zones = limit === null ? [] : [zone(low, -limit, low, high), zone(limit, high, low, high)];
  const ticks = h("div", { class: "ticks", "aria-hidden": "true" }, h("span", {}, `−${-low}`), h("span", {}, "0"), h("span", {}, `×${high}`));
  item.classList.toggle("on", chosen.on);
  item.append(
    h("div", { class: "row" }, power, h("span", { class: "name", id: title }, vector.id), h("span", { class: "grow" }), h("span", { class: "number" }, h("span", { "aria-hidden": "true" }, "×"), number)),
    vector.description ? h("p", { class: "description" }, vector.description) : "",
    h("div", { class: "body" }, h("div", { class: "slider" }, h("div", { class: "track" }, ...zones, fill), slider, ticks), amount, more(vector, chosen, show)));
  show();
  return item;
}

/** Layers as ranges: 2, 14–26. */
function ranges(layers) {
  const parts = [];
  for (const layer of layers) {
    const last = parts.at(-1);
    if (last && layer === last[1] + 1) last[1] = layer;
    else parts.push([layer, layer]);
  }
  return parts.map(([first, last]) => (first === last ? first : `${first}–${last}`)).join(", ");
}

/** The range of a slider: at least ±LARGEST, and beyond the limit that a sweep found. */
function range(vector) {
  const limit = vector.limit ?? 0;
  const high = Math.max(LARGEST, Math.ceil(limit * 1.25));
  return [-high, high];
}

function zone(from, to, low, high) {
  const element = h("div", { class: "zone", title: "Here the sweep found texts too costly" });
  element.style.left = `${(100 * (from - low)) / (high - low)}%`;
  element.style.width = `${Math.max(0, (100 * (to - from)) / (high - low))}%`;
  return element;
}

function more(vector, chosen, show) {
  const [name, value] = chosen.op === "norm=keep" ? ["norm=keep", ""] : [chosen.op.split("=")[0], chosen.op.split("=")[1] ?? ""];
  const needs = (op) => ["clamp", "cap", "floor", "rotate"].includes(op);
  const level = h("input", { type: "text", class: "short", value, placeholder: "pos", "aria-label": "Value of the op", hidden: !needs(name) });
  const op = select(OPS, name, () => setOp());
  function setOp() {
    level.hidden = !needs(op.value);
    level.placeholder = op.value === "rotate" ? "30" : "pos";
    chosen.op = needs(op.value) ? `${op.value}=${level.value.trim() || level.placeholder}` : op.value;
    show();
    touch();
  }
  level.addEventListener("input", setOp);
  const problem = h("p", { class: "problem", role: "alert" });
  const layers = h("input", { type: "text", value: chosen.layers, placeholder: vector.recommended.layers.join(",") });
  layers.addEventListener("input", () => {
    chosen.layers = layers.value;
    if (!layers.value.trim()) chosen.absolute = false;
    problem.textContent = "";
    try { layersOf(layers.value); } catch (error) { problem.textContent = error.message; }
    show();
    touch();
  });
  const known = SCOPES.some(([own]) => own === chosen.scope);
  const scope = select([...SCOPES, ...(known ? [] : [[chosen.scope, chosen.scope]]), ["response=0-4", "the first five tokens"]], chosen.scope,
    (value) => { chosen.scope = value; touch(); });
  const when = h("input", { type: "text", value: chosen.when, placeholder: `${vector.id}>0.5`, on: { input: () => { chosen.when = when.value; touch(); } } });
  const save = vector.saved === false && can("make") ? h("button", { type: "button", class: "quiet", on: { click: () => actions.save(vector, save) } }, "Save to a file") : null;
  const strip = h("button", { type: "button", class: "quiet", on: { click: () => actions.strip(vector.id) } }, "Try strengths −2 to 2");
  const opField = field("What it does", op);
  opField.append(level);
  return h("details", { class: "more" }, h("summary", {}, "More"),
    opField, field("Layers", layers, `It has ${vector.layers[0]}–${vector.layers.at(-1)}.`), problem, field("Acts on", scope),
    field("Only when", when, "A vector, < or >, and a level: 0 where its negative texts lie, 1 where its positive ones do."),
    h("div", { class: "row" }, strip, save),
    h("p", { class: "hint" }, facts(vector)));
}

function facts(vector) {
  const row = vector.statistics.find((entry) => entry.layer === vector.recommended.layers[0]);
  const parts = [`${vector.method}, ${vector.contrast.n} ${vector.contrast.kind}`];
  if (row?.separability) parts.push(`separates held-out texts ${short(100 * row.separability, 1)} % (AUC)`);
  parts.push(vector.evidence);
  return parts.filter(Boolean).join(" · ");
}

function recipes() {
  const items = about.recipes.map((recipe) => {
    const id = `recipe-${recipe.id}`;
    const power = h("button", { type: "button", role: "switch", class: "switch", "aria-checked": String(Boolean(settings.recipes[recipe.id])), "aria-labelledby": id,
      on: { click: () => {
        settings.recipes[recipe.id] = !settings.recipes[recipe.id];
        power.setAttribute("aria-checked", String(settings.recipes[recipe.id]));
        if (settings.recipes[recipe.id]) {
          for (const name of ["temperature", "max_tokens", "top_p", "seed", "system"]) if (recipe.settings[name] !== undefined) settings[name] = recipe.settings[name];
          draw();
        }
        touch();
      } } });
    return h("li", { class: "vector recipe" }, h("div", { class: "row" }, power, h("span", { class: "name", id }, recipe.id)),
      h("p", { class: "description" }, recipe.description || recipe.steers.map((steer) => steer.vector).join(", ")));
  });
  return h("section", { "aria-labelledby": "recipes-title" }, h("h2", { id: "recipes-title" }, "Recipes"), h("ul", { class: "vectors" }, ...items));
}

function numberInput(name, props) {
  const input = h("input", { type: "number", value: settings[name], ...props, on: { input: () => {
    if (Number.isFinite(input.valueAsNumber)) settings[name] = input.valueAsNumber;
    touch();
  } } });
  return input;
}

function drawing() {
  return h("details", { class: "group" }, h("summary", {}, "Sampling"),
    h("div", { class: "grid" },
      field("Temperature", numberInput("temperature", { min: 0, max: 5, step: 0.1 })),
      field("Tokens", numberInput("max_tokens", { min: 1, max: about.context ?? 100000, step: 1 })),
      field("Top p", numberInput("top_p", { min: 0.01, max: 1, step: 0.05 })),
      field("Seed", numberInput("seed", { min: 0, step: 1 }))),
    h("p", { class: "hint" }, "All columns use the same random numbers, so the steering alone makes the difference."));
}

function system() {
  const text = h("textarea", { rows: 3, value: settings.system, placeholder: "You are a helpful assistant.", on: { input: () => { settings.system = text.value; touch(); } } });
  return h("details", { class: "group", open: Boolean(settings.system) }, h("summary", {}, "System prompt"), field("For all columns, in chats", text));
}

function guards() {
  if (!can("guard")) return "";
  const text = h("input", { type: "text", value: settings.guard, placeholder: `${about.vectors[0]?.id ?? "joyful"}>0.9`, on: { input: () => { settings.guard = text.value.trim(); touch(); } } });
  const trip = select([["stop", "end the text"], ["ablate", "remove the projection from there on"], ["error", "give an error"]], settings.on_trip,
    (value) => { settings.on_trip = value; touch(); });
  return h("details", { class: "group", open: Boolean(settings.guard) }, h("summary", {}, "Guard"),
    field("When a new token has", text, "As in “Only when”. It watches the steered columns."), field("Then", trip));
}

function third() {
  const box = h("div", {});
  const fill = () => {
    const parts = [];
    if (settings.third === "prompt") {
      const text = h("textarea", { rows: 3, value: settings.condition, placeholder: "You are a cheerful pirate.", on: { input: () => { settings.condition = text.value; touch(); } } });
      parts.push(field("The prompt", text, can("condition") ? "It stands before the text, or is the system message." : "It is the system message, or stands before the text."));
      if (can("condition")) {
        const amount = h("input", { type: "number", step: 0.1, value: settings.strength, on: { input: () => { if (Number.isFinite(amount.valueAsNumber)) settings.strength = amount.valueAsNumber; touch(); } } });
        parts.push(field("Strength", amount, "1 is the prompt itself; more is guided further (two runs a token)."));
      }
    }
    if (settings.third === "pinned") {
      const pin = h("button", { type: "button", class: "quiet", on: { click: () => {
        try { settings.pinned = { steer: steers(), label: summary() || "unsteered" }; } catch (error) { announce(error.message); return; }
        fill();
        touch();
      } } }, "Pin what is set now");
      parts.push(h("p", { class: "hint" }, settings.pinned ? `Pinned: ${settings.pinned.label}` : "Pin a setting, then move the sliders to compare."), pin);
    }
    box.replaceChildren(...parts);
  };
  const kind = select([["none", "none"], ["prompt", "a prompt instead of vectors"], ["pinned", "another setting"]], settings.third, (value) => { settings.third = value; fill(); touch(); });
  fill();
  return h("details", { class: "group", open: settings.third !== "none" }, h("summary", {}, "Third column"), field("Shows", kind), box);
}
