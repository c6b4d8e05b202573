/**
 * Envelopes of Connect's streams, for tests: made and taken apart apart from the server's own.
 */

/** A message of a stream. */
export interface Enveloped {
  readonly flags: number;
  readonly json: Readonly<Record<string, unknown>>;
}

/** Returns a message in its envelope. */
export function inEnvelope(message: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** Returns the messages of an answer. */
export function envelopesIn(body: Buffer): Enveloped[] {
  const found: Enveloped[] = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    const json = JSON.parse(body.subarray(at + 5, end).toString());
    found.push({ flags: body.readUInt8(at), json });
    at = end;
  }
  return found;
}
