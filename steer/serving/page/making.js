export function showMaking() {}
