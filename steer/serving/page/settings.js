// The settings of the page, and their form in a request, on the command line, in a recipe and in Python.

/** The state of the server: the model, and the names that requests can use. */
export const about = { model: "", source: "", folder: "vectors", vectors: [], recipes: [], defaults: [], features: [], chat: true, context: null };

/** The settings of a vector at first. times: of the recommended strength or, if `absolute` is set (with
 *  layers), of the vector itself. */
export const untouched = () => ({ on: false, times: 1, absolute: false, op: "", layers: "", scope: "", when: "" });

export const settings = {
  mode: "chat",
  vectors: {},
  recipes: {},
  temperature: 0.7,
  max_tokens: 128,
  top_p: 1,
  seed: 0,
  system: "",
  guard: "",
  on_trip: "stop",
  third: "none",
  condition: "",
  strength: 1,
  pinned: null,
  compare: true,
  colour: "",
  differences: true,
};

export const can = (feature) => about.features.includes(feature);
export const vector = (name) => about.vectors.find((entry) => entry.id === name);

/** The settings of one vector. */
export function own(name) {
  settings.vectors[name] ??= untouched();
  return settings.vectors[name];
}

const opName = (op) => (op === "norm=keep" ? "add" : op.split("=")[0]);
const exact = (number) => Number(number.toPrecision(6));

/** The op of a vector; by default its file's. */
export const opOf = (name) => own(name).op || vector(name)?.recommended.op || "add";

/** The recommended strength of a vector, as a number and a unit ("" or "%"). */
export function unit(name) {
  const recommended = vector(name).recommended;
  if (own(name).absolute || opName(opOf(name)) !== opName(recommended.op)) return [1, ""];
  const text = String(recommended.coefficient);
  return [Number.parseFloat(text), text.endsWith("%") ? "%" : ""];
}

/** The coefficient at a slider's position: of the stored vector, a share of the activation, or of an edit. */
export function coefficient(name, times = own(name).times) {
  const [size, sign] = unit(name);
  const value = exact(size * times);
  return sign ? `${value}%` : value;
}

/** Layers as a request has them; null leaves them to the file.
 *  Throws a RangeError that says what is wrong. */
export function layersOf(text) {
  const typed = text.trim();
  if (!typed) return null;
  if (typed === "all") return "all";
  const layers = [];
  for (const part of typed.split(",")) {
    const match = /^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/.exec(part);
    const [first, last] = match ? [Number(match[1]), Number(match[2] ?? match[1])] : [1, 0];
    if (last < first || last > 9999) throw new RangeError(`Write layers as 3, 2,5 or 4-7, not ${JSON.stringify(typed)}.`);
    for (let layer = first; layer <= last; layer++) layers.push(layer);
  }
  return layers;
}

/** One vector's steer, as a request has it. */
export function steerOf(name, times = own(name).times) {
  const chosen = own(name);
  // A number multiplies what the file recommends; beside layers it multiplies the vector itself.
  const layers = layersOf(chosen.layers);
  const steer = { vector: name, coefficient: layers === null ? exact(times) : coefficient(name, times) };
  if (layers !== null) steer.layers = layers;
  if (chosen.op) steer.op = chosen.op;
  if (chosen.scope.trim()) steer.scope = chosen.scope.trim();
  if (chosen.when.trim()) steer.when = chosen.when.trim();
  return steer;
}

/** The names of the vectors that are on, in the server's order. */
export const active = () => about.vectors.map((entry) => entry.id).filter((name) => settings.vectors[name]?.on);
export const activeRecipes = () => about.recipes.map((entry) => entry.id).filter((name) => settings.recipes[name]);

/** All steers that are on, as a request has them. */
export const steers = () => [...activeRecipes(), ...active().map((name) => steerOf(name))];

/** A steer as `-v` has it. */
export function spec(steer) {
  if (typeof steer === "string") return steer;
  const amount = [steer.coefficient, steer.op].filter((part) => part !== undefined).join(",");
  const layers = steer.layers === undefined ? "" : `@${steer.layers === "all" ? "all" : steer.layers.join(",")}`;
  return `${steer.vector}:${amount}${layers}${steer.scope ? `/${steer.scope}` : ""}`;
}

/** A short name of the steers: `joyful ×2, sea ×-1`. */
export function summary() {
  const names = active().map((name) => `${name} ×${exact(own(name).times)}`);
  return [...activeRecipes(), ...names].join(", ");
}

/** The vectors whose projections are read: the one that colours tokens, and those that steer. */
export function watched() {
  if (!can("watch")) return [];
  const wanted = new Set([settings.colour, ...active()]);
  return [...wanted].filter((name) => name && vector(name)?.watch_layer !== null && vector(name)).slice(0, 16);
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const python = (text) => JSON.stringify(text);

const guardOptions = () => `--guard ${quoted(settings.guard)} --on-trip ${settings.on_trip}`;

/** Comments on what an export needs: saved vectors, and their folder. */
function needs(environment) {
  const unsaved = active().filter((name) => vector(name).saved === false);
  const notes = unsaved.length ? [`# Save first, as no file has it yet: ${unsaved.join(", ")}.`] : [];
  if (environment && about.folder !== "vectors") notes.push(`# Run it with STEER_VECTORS=${quoted(about.folder)}, where the vectors are.`);
  return notes.map((note) => `${note}\n`).join("");
}

/** The settings as a line for a shell. */
export function applyLine(prompt) {
  const list = steers();
  const recipes = list.filter((steer) => typeof steer === "string");
  const objects = list.filter((steer) => typeof steer !== "string");
  const gates = new Set(objects.map((steer) => steer.when).filter(Boolean));
  const parts = [`${about.folder === "vectors" ? "" : `STEER_VECTORS=${quoted(about.folder)} `}steer apply`, quoted(prompt || "Your prompt"), `-m ${quoted(about.source)}`];
  if (settings.mode === "chat") parts.push("--chat");
  if (settings.mode === "chat" && settings.system) parts.push(`--system ${quoted(settings.system)}`);
  for (const name of recipes) parts.push(`--recipe ${quoted(`${about.folder}/${name}.toml`)}`);
  for (const steer of objects) parts.push(`-v ${quoted(spec(steer))}`);
  if (gates.size === 1 && objects.every((steer) => steer.when)) parts.push(`--when ${quoted([...gates][0])}`);
  if (settings.guard) parts.push(guardOptions());
  parts.push(`-t ${settings.temperature} --max-tokens ${settings.max_tokens} --seed ${settings.seed}`);
  if (settings.top_p < 1) parts.push(`--top-p ${settings.top_p}`);
  const mixed = gates.size > 1 || (gates.size === 1 && !objects.every((steer) => steer.when));
  const note = mixed ? "# The vectors wait for different conditions: the recipe says which, a line cannot.\n" : "";
  return needs(false) + note + parts.join(" \\\n  ");
}

/** The settings as a recipe, a TOML file. */
export function recipe() {
  const objects = steers().filter((steer) => typeof steer !== "string");
  const text = JSON.stringify;
  const entry = (steer) => (steer.when ? `{ vector = ${text(spec(steer))}, when = ${text(steer.when)} }` : text(spec(steer)));
  const lines = settings.guard ? [`# A recipe has no guards: add ${guardOptions()} to steer apply.`] : [];
  lines.push(`description = ${text(summary() || "unsteered")}`);
  if (activeRecipes().length) lines.push(`include = [${activeRecipes().map((name) => text(`${name}.toml`)).join(", ")}]`);
  lines.push(`steers = [${objects.map(entry).join(", ")}]`, "", "[generation]");
  lines.push(`temperature = ${settings.temperature}`, `max_tokens = ${settings.max_tokens}`, `seed = ${settings.seed}`);
  if (settings.top_p < 1) lines.push(`top_p = ${settings.top_p}`);
  if (settings.mode === "chat") lines.push("chat = true");
  if (settings.mode === "chat" && settings.system) lines.push(`system = ${text(settings.system)}`);
  return `${needs(true)}${lines.join("\n")}\n`;
}

/** The settings as Python. */
export function pythonCode(prompt) {
  const objects = steers().filter((steer) => typeof steer !== "string");
  const recipes = activeRecipes().map((name) => `steer.read_recipe(${python(`${about.folder}/${name}.toml`)})`);
  const specs = [...recipes, ...objects.map((steer) => (steer.when ? `steer.parse(${python(spec(steer))}, when=${python(steer.when)})` : python(spec(steer))))];
  const options = [python(prompt || "Your prompt"), `steer=[${specs.join(", ")}]`];
  if (settings.mode === "chat") options.push("chat=True");
  if (settings.mode === "chat" && settings.system) options.push(`system=${python(settings.system)}`);
  options.push(`temperature=${settings.temperature}`, `max_tokens=${settings.max_tokens}`, `seed=${settings.seed}`);
  if (settings.top_p < 1) options.push(`top_p=${settings.top_p}`);
  if (settings.guard) options.push(`guards=${python(settings.guard)}`, `on_trip=${python(settings.on_trip)}`);
  return needs(true) + ["import steer", "", `model = steer.load(${python(about.source)})`,
    `print(model.generate(\n    ${options.join(",\n    ")},\n))`, ""].join("\n");
}

/** The settings as the body of a request. */
export function requestBody(prompt) {
  const body = { model: about.model };
  if (settings.mode === "chat") {
    const system = settings.system ? [{ role: "system", content: settings.system }] : [];
    body.messages = [...system, { role: "user", content: prompt || "Your prompt" }];
  } else {
    body.prompt = prompt || "Your prompt";
  }
  Object.assign(body, { steer: steers(), temperature: settings.temperature, max_tokens: settings.max_tokens, seed: settings.seed });
  if (settings.guard) Object.assign(body, { guard: settings.guard, on_trip: settings.on_trip });
  return JSON.stringify(body, null, 2);
}
