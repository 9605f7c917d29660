export function showStrip() {}
