/**
 * Lines of the log that several processes write to one pipe: none is longer than what the system
 * writes in one piece (PIPE_BUF), so that no process' line gets into the middle of another's.
 */

/** The most that a write to a pipe puts there in one piece, in bytes (pipe(7)). */
export const PIECE_BYTES = 4_096;
/** What a longer line's texts are cut to, in characters: the first length that does. */
const TEXT_LENGTHS = [1_024, 512, 256, 128, 64, 16];

/** Returns a line of JSON, with its newline, that fits a piece: its longest texts are cut. */
export function shortLine(line: string): string {
  if (line.length * 3 < PIECE_BYTES || Buffer.byteLength(line) < PIECE_BYTES) return line;
  const fields = JSON.parse(line) as Readonly<Record<string, unknown>>;
  for (const length of TEXT_LENGTHS) {
    const cut = (_name: string, value: unknown) =>
      typeof value === 'string' && value.length > length ? `${value.slice(0, length)}…` : value;
    const text = `${JSON.stringify({ ...fields, isCut: true }, cut)}\n`;
    if (Buffer.byteLength(text) < PIECE_BYTES) return text;
  }
  // Of very many members.
  const { level, time, process, alert, msg } = fields;
  return `${JSON.stringify({ level, time, process, alert, isCut: true, msg })}\n`;
}
