/**
 * Figures as SVG: lines over a number, and how often values fall where.
 *
 * Readable on light and dark pages, by colours of its own for each. Text is text, so that it can be
 * searched. Knows no measurement.
 */

export interface Axis {
  /** What it shows, with its unit. */
  readonly label: string;
  /** Whether equal steps are equal factors; values are then above zero. */
  readonly isLog?: boolean;
}

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Chart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

/** Which part of the picture is what. */
const SIZE = { width: 720, height: 360 };
const PLOT = { left: 80, right: 700, top: 60, bottom: 300 };
const TICKS = 5;
const LEGEND_STEP = 150;

const STYLE = `
  .page { fill: #ffffff } text { fill: #24292f; font: 13px sans-serif } .title { font-size: 15px }
  .grid { stroke: #d0d7de } .line { fill: none; stroke-width: 2 }
  .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }
  .b0 { fill: #0969da } .b1 { fill: #bc4c00 } .b2 { fill: #1a7f37 } .b3 { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d }
    .c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #d2a8ff }
    .b0 { fill: #58a6ff } .b1 { fill: #f0883e } .b2 { fill: #3fb950 } .b3 { fill: #d2a8ff }
  }`;

/** Returns each series as a line through its points. */
export function lineChart({ title, x, y, series }: Chart): string {
  const points = series.flatMap((each) => each.points);
  const [atX, atY] = [
    scale(
      points.map(([value]) => value),
      x.isLog === true,
      [PLOT.left, PLOT.right],
    ),
    scale(
      points.map(([, value]) => value),
      y.isLog === true,
      [PLOT.bottom, PLOT.top],
    ),
  ];
  const lines = series.map(({ points: own }, index) => {
    const path = own.map(([px, py]) => `${at(atX.place(px))},${at(atY.place(py))}`);
    const dots = path.map((place) => {
      const [cx, cy] = place.split(',');
      return `<circle class="b${index}" cx="${cx}" cy="${cy}" r="3"/>`;
    });
    return `<polyline class="line c${index}" points="${path.join(' ')}"/>${dots.join('')}`;
  });
  const names = series.map(({ name }) => name);
  return picture(title, [...axes({ x, y }, atX, atY), ...legend(names), ...lines]);
}

/** Returns how many values of each series fall into each of so many parts of their range. */
export function histogram(
  { title, x, y }: Omit<Chart, 'series'>,
  series: readonly { readonly name: string; readonly values: readonly number[] }[],
  bins = 20,
): string {
  const most = Math.max(...series.flatMap(({ values }) => values), Number.MIN_VALUE);
  const width = most / bins;
  const counts = series.map(({ values }) => {
    const count = new Array<number>(bins).fill(0);
    for (const value of values) {
      const bin = Math.min(bins - 1, Math.floor(value / width));
      count[bin] = (count[bin] ?? 0) + 1;
    }
    return count;
  });
  const atX = scale([0, most], false, [PLOT.left, PLOT.right]);
  const atY = scale([0, ...counts.flat()], false, [PLOT.bottom, PLOT.top]);
  const room = (PLOT.right - PLOT.left) / bins / (series.length + 0.5);
  const bars = counts.flatMap((count, index) =>
    count.map((value, bin) => {
      const [left, top] = [atX.place(bin * width) + index * room, atY.place(value)];
      const size = `width="${at(room)}" height="${at(PLOT.bottom - top)}"`;
      return `<rect class="b${index}" x="${at(left)}" y="${at(top)}" ${size}/>`;
    }),
  );
  const names = series.map(({ name }) => name);
  return picture(title, [...axes({ x, y }, atX, atY), ...legend(names), ...bars]);
}

interface Scale {
  readonly place: (value: number) => number;
  readonly ticks: readonly number[];
}

/** From zero, or from the power of ten below, to a round number. */
function scale(
  values: readonly number[],
  isLog: boolean,
  [from, to]: readonly [number, number],
): Scale {
  const most = Math.max(...values);
  if (isLog) {
    const [low, high] = [
      Math.floor(Math.log10(Math.min(...values))),
      Math.max(Math.ceil(Math.log10(most)), Math.floor(Math.log10(Math.min(...values))) + 1),
    ];
    return {
      place: (value) => from + ((to - from) * (Math.log10(value) - low)) / (high - low),
      ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)),
    };
  }
  const step = roundUp((most > 0 ? most : 1) / TICKS);
  const count = Math.max(1, Math.ceil(most / step - 1e-9));
  return {
    place: (value) => from + ((to - from) * value) / (step * count),
    ticks: Array.from({ length: count + 1 }, (_, index) => index * step),
  };
}

/** Returns the next of 1, 2 and 5 times a power of ten. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5, 10].find((each) => each * power >= value * 0.999) ?? 10) * power;
}

function axes({ x, y }: Pick<Chart, 'x' | 'y'>, atX: Scale, atY: Scale): string[] {
  const { left, right, top, bottom } = PLOT;
  const middle = (top + bottom) / 2;
  return [
    ...atY.ticks.flatMap((tick) => {
      const place = at(atY.place(tick));
      return [
        `<line class="grid" x1="${left}" x2="${right}" y1="${place}" y2="${place}"/>`,
        `<text x="${left - 8}" y="${place}" dy="4" text-anchor="end">${number(tick)}</text>`,
      ];
    }),
    ...atX.ticks.map(
      (tick) =>
        `<text x="${at(atX.place(tick))}" y="${bottom + 20}" text-anchor="middle">` +
        `${number(tick)}</text>`,
    ),
    `<text x="${(left + right) / 2}" y="${bottom + 45}" text-anchor="middle">` +
      `${escaped(x.label)}</text>`,
    `<text transform="translate(20 ${middle}) rotate(-90)" text-anchor="middle">` +
      `${escaped(y.label)}</text>`,
  ];
}

function legend(names: readonly string[]): string[] {
  return names.map((name, index) => {
    const left = PLOT.left + index * LEGEND_STEP;
    return (
      `<rect class="b${index}" x="${left}" y="36" width="12" height="12"/>` +
      `<text x="${left + 18}" y="47">${escaped(name)}</text>`
    );
  });
}

function picture(title: string, parts: readonly string[]): string {
  const { width, height } = SIZE;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="page" width="${width}" height="${height}"/>`,
    `<text class="title" x="${PLOT.left}" y="24">${escaped(title)}</text>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function at(place: number): string {
  return place.toFixed(1);
}

/** Returns a number of an axis as it is read: 20k, 0.5. */
function number(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (value >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
