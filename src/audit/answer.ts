/**
 * Answers from outside over HTTP, read as text within a limit.
 */

/**
 * The answer's body. Throws an Error with `tooLarge` beyond that many bytes, of which nothing more
 * is read then.
 */
export async function textOf(
  { body }: Response,
  maxBytes: number,
  tooLarge: string,
): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw new Error(tooLarge);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
