// A model as the API names it: one adapter, or a weighted sum of several.

/**
 * Write `a@1*0.7+b@2*0.3`. Parts without weight are left out, and one part of weight 1 is
 * the adapter itself. Null where nothing is left: that is never the base.
 * @param {{ref: string, weight: number}[]} parts
 */
export function expression(parts) {
  const heavy = parts.filter((part) => part.weight > 0);
  if (!heavy.length) return null;
  if (heavy.length === 1 && heavy[0].weight === 1) return heavy[0].ref;
  return heavy.map((part) => `${part.ref}*${weightText(part.weight)}`).join("+");
}

/** A weight with at most two decimals and no idle zeros. */
export function weightText(weight) {
  return String(Math.round(weight * 100) / 100);
}
