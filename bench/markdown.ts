/**
 * Markdown that is also readable as text: lines of 100 columns, but for the rows of tables.
 */

export const COLUMNS = 100;

/** A table, its columns padded. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((_, column) =>
    Math.max(3, ...[headings, ...rows].map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(headings), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join(
    '\n',
  );
}

/** Returns a paragraph, its text broken at {@link COLUMNS}; a code span is not broken. */
export function paragraph(text: string, indent = ''): string {
  const lines: string[] = [];
  for (const word of text.match(/(?:`[^`]*`|[^\s`])+/g) ?? []) {
    const longer = lines.length === 0 ? word : `${lines.at(-1)} ${word}`;
    if (indent.length + longer.length > COLUMNS) lines.push(word);
    else lines.splice(-1, 1, longer);
  }
  return lines.join(`\n${indent}`);
}

/** Returns a figure of this name, with what it shows. */
export function figure(name: string, alternative: string): string {
  return `![${alternative}](figures/${name}.svg)`;
}

/** Returns an item of a list. */
export function item(text: string): string {
  return `- ${paragraph(text, '  ')}`;
}

/** Returns an item that reports whether a target was reached. */
export function target(reached: boolean, text: string): string {
  return item(`${reached ? '✓' : '✗'} ${text}`);
}

/** Returns a median with the lowest and the highest of its rounds. */
export function spread([median, lowest, highest]: readonly [number, number, number]): string {
  return `${median.toFixed(2)} (${lowest.toFixed(2)}–${highest.toFixed(2)})`;
}
