/**
 * The five bytes before each message of a request, as they pass: whether one says that its message
 * is compressed.
 *
 * grpc-js takes a message that is marked as compressed, without a header that says how, for one
 * that is not. Invariant: keeps no byte of a message.
 */

const PREFIX_BYTES = 5;
const PLAIN = 0;

/** Follows the frames of gRPC messages through a stream of bytes. */
export class MessageFrames {
  /** Of the prefix that is arriving. */
  #prefixBytes = 0;
  #length = 0;
  /** Of the message that is arriving. */
  #left = 0;

  /** Whether a message, or what comes before it, has begun and is not whole. */
  get isPartial(): boolean {
    return this.#prefixBytes > 0 || this.#left > 0;
  }

  /**
   * Takes the next bytes of the request; returns whether a message begins in them that is not
   * plain.
   */
  hasCompressed(chunk: Uint8Array): boolean {
    for (let offset = 0; offset < chunk.length; ) {
      if (this.#left > 0) {
        const skipped = Math.min(this.#left, chunk.length - offset);
        this.#left -= skipped;
        offset += skipped;
        continue;
      }
      const byte = chunk[offset++] ?? 0;
      if (this.#prefixBytes === 0 && byte !== PLAIN) return true;
      this.#length = this.#prefixBytes === 0 ? 0 : this.#length * 256 + byte;
      this.#prefixBytes += 1;
      if (this.#prefixBytes < PREFIX_BYTES) continue;
      this.#prefixBytes = 0;
      this.#left = this.#length;
    }
    return false;
  }
}

/** Returns a message with its prefix, as a copy: what it was made of is overwritten. */
export function framed(message: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + message.length);
  frame[0] = PLAIN;
  frame.writeUInt32BE(message.length, 1);
  message.copy(frame, PREFIX_BYTES);
  return frame;
}
