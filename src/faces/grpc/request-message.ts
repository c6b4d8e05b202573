/**
 * The one message of a request, put together from the bytes of its stream: five bytes before it say
 * whether it is compressed, and how long it is.
 *
 * Invariant: what is refused is let go of at once, and is refused at the first byte that shows it.
 */
import { KeywardError } from '../../errors.ts';

const PREFIX_BYTES = 5;
const PLAIN = 0;

/** Puts the message of a request together. */
export class RequestMessage {
  readonly #maxBytes: number;
  #pieces: Buffer[] = [];
  #length = 0;
  /** With its prefix; undefined until that has come. */
  #expected: number | undefined;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes of the request. Returns why it is refused, if it is. */
  add(piece: Buffer): KeywardError | undefined {
    this.#pieces.push(piece);
    this.#length += piece.length;
    const refusal = this.#refusal();
    if (refusal !== undefined) this.#wipe();
    return refusal;
  }

  /** Returns the message, which is the caller's to overwrite, or why the request is refused. */
  whole(): Buffer | KeywardError {
    if (this.#length === 0) return new KeywardError('MESSAGE_COUNT_WRONG');
    if (this.#length !== this.#expected) {
      this.#wipe();
      return new KeywardError('MALFORMED_REQUEST');
    }
    const [first] = this.#pieces;
    if (first !== undefined && this.#pieces.length === 1) return first.subarray(PREFIX_BYTES);
    const message = Buffer.concat(this.#pieces).subarray(PREFIX_BYTES);
    this.#wipe();
    return message;
  }

  #refusal(): KeywardError | undefined {
    if (this.#expected === undefined) {
      const prefix = this.#prefix();
      if (prefix.length > 0 && prefix[0] !== PLAIN)
        return new KeywardError('COMPRESSION_NOT_SUPPORTED');
      if (prefix.length < PREFIX_BYTES) return undefined;
      const length = prefix.readUInt32BE(1);
      if (length > this.#maxBytes) {
        const metadata = { limit: String(this.#maxBytes) };
        return new KeywardError('MESSAGE_TOO_LARGE', { metadata });
      }
      this.#expected = PREFIX_BYTES + length;
    }
    return this.#length > this.#expected ? new KeywardError('MESSAGE_COUNT_WRONG') : undefined;
  }

  #prefix(): Buffer {
    const [first] = this.#pieces;
    return first !== undefined && first.length >= PREFIX_BYTES
      ? first.subarray(0, PREFIX_BYTES)
      : Buffer.concat(this.#pieces, Math.min(this.#length, PREFIX_BYTES));
  }

  #wipe(): void {
    for (const piece of this.#pieces) piece.fill(0);
    this.#pieces = [];
  }
}
