/**
 * A straight line through points, by least squares.
 */

export interface Line {
  readonly slope: number;
  /** The slope's standard error; zero where the points lie on the line, or are two. */
  readonly error: number;
  /** Of the points' second numbers. */
  readonly mean: number;
}

/** Returns the line; without a slope where all points lie above one place. */
export function lineThrough(points: readonly (readonly [x: number, y: number])[]): Line {
  const count = points.length;
  const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / count;
  const meanX = meanOf(points.map(([x]) => x));
  const mean = meanOf(points.map(([, y]) => y));
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  if (spread === 0) return { slope: 0, error: 0, mean };
  const slope = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - mean), 0) / spread;
  const rest = points.reduce((sum, [x, y]) => sum + (y - mean - slope * (x - meanX)) ** 2, 0);
  const error = count > 2 ? Math.sqrt(rest / (count - 2) / spread) : 0;
  return { slope, error, mean };
}
