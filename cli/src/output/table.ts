/**
 * Lays out a table: in columns, cut to a terminal's width, or a line for each field where even that
 * does not fit.
 *
 * - The first column, which has the name, is never cut, nor are times and numbers.
 */
import stringWidth from 'string-width';

/** How a table looks. */
export interface Look {
  /** How many characters fit on a line; undefined for no limit. */
  readonly width: number | undefined;
  readonly colours: boolean;
  readonly headers?: boolean;
}

const GAP = '  ';

/** A column that is cut keeps as much. */
const LEAST = 12;

/** Times, numbers, and what stands where there are none. */
const WHOLE = /^(\d[\d:TZ.,-]*|never|none|)$/;

/** Returns the text of a table, line by line. */
export function tableText(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  { width, colours, headers = true }: Look,
): string {
  const shown = headers ? [head, ...rows] : rows;
  if (shown.length === 0) return '';
  const natural = head.map((_, i) => Math.max(...shown.map((row) => stringWidth(row[i] ?? ''))));
  const widths = width === undefined ? natural : fit(natural, head, rows, width);
  if (widths === undefined) return records(head, rows, colours);
  const lines = shown.map((row, at) => {
    const cells = row.map((cell, i) => {
      const cut = cutTo(cell, widths[i] ?? 0);
      const isLast = i === row.length - 1;
      const padding = isLast ? '' : ' '.repeat((widths[i] ?? 0) - stringWidth(cut));
      return (colours ? coloured(cut, headers && at === 0) : cut) + padding;
    });
    return cells.join(GAP).trimEnd();
  });
  return `${lines.join('\n')}\n`;
}

/** The widths that fit, the longest columns cut first; undefined where none do. */
function fit(
  natural: readonly number[],
  head: readonly string[],
  rows: readonly (readonly string[])[],
  width: number,
): readonly number[] | undefined {
  const least = natural.map((own, i) => {
    const isWhole = i === 0 || rows.every((row) => WHOLE.test(row[i] ?? ''));
    return isWhole ? own : Math.min(own, Math.max(LEAST, stringWidth(head[i] ?? '')));
  });
  const gaps = GAP.length * (natural.length - 1);
  const sum = (widths: readonly number[]) => widths.reduce((all, each) => all + each, gaps);
  if (sum(least) > width) return undefined;
  const widths = [...natural];
  while (sum(widths) > width) {
    const spare = widths.map((each, i) => (each > (least[i] ?? 0) ? each : 0));
    const longest = spare.indexOf(Math.max(...spare));
    widths[longest] = (widths[longest] ?? 0) - 1;
  }
  return widths;
}

/** A line for each field, and an empty one between rows. */
function records(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  colours: boolean,
): string {
  const width = Math.max(...head.map((title) => stringWidth(title)));
  const blocks = rows.map((row) =>
    row
      .map((cell, i) => {
        const title = head[i] ?? '';
        const padded = title + ' '.repeat(width - stringWidth(title));
        return colours
          ? `${coloured(padded, true)}${GAP}${coloured(cell, false)}`
          : `${padded}${GAP}${cell}`.trimEnd();
      })
      .join('\n'),
  );
  return blocks.length === 0 ? `${head.join(GAP)}\n` : `${blocks.join('\n\n')}\n`;
}

const segments = new Intl.Segmenter();

/** The text, or as much of it as fits with `…`. */
function cutTo(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  let kept = '';
  for (const { segment } of segments.segment(text)) {
    if (stringWidth(kept + segment) >= width) break;
    kept += segment;
  }
  return `${kept}…`;
}

/** States by what a reader should make of them. */
const COLOURS: readonly (readonly [RegExp, number])[] = [
  [/^(ENABLED|READY|SUCCEEDED|EXECUTED|OK|ON|CURRENT|allowed)$/, 32],
  [/^(DISABLED|PAUSED|PARTIAL|CANCELLED|PENDING|RUNNING|WARNING|NOT SEPARATED)\b/, 33],
  [/^(DESTROY|SHRED|SILENT|CRITICAL|FAILED|NOT RECORDED|REJECTED|denied)/, 31],
];

function coloured(cell: string, isHead: boolean): string {
  if (isHead) return `\u001b[1m${cell}\u001b[0m`;
  const [, colour] = COLOURS.find(([words]) => words.test(cell)) ?? [];
  return colour === undefined ? cell : `\u001b[${colour}m${cell}\u001b[0m`;
}
