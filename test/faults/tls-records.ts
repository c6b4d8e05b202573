/**
 * Records of TLS 1.3 made here, for what Node's client does not send: key updates, as many as a
 * test wants.
 *
 * Goes on from a handshake that Node made, by the secret that it tells for debugging (RFC 8446, 5
 * and 7.2), and so must be all that writes to the connection afterwards. One suite:
 * TLS_AES_128_GCM_SHA256. Reads nothing.
 */
import { createCipheriv, createHmac } from 'node:crypto';
import type { TLSSocket } from 'node:tls';

/** The suite that connections whose records are made here must have, as Node names it. */
export const RECORD_SUITE = 'TLS_AES_128_GCM_SHA256';

const TYPE = { handshake: 22, applicationData: 23 } as const;
const KEY_UPDATE = 24;
const HASH_BYTES = 32;
const TAG_BYTES = 16;
const MOST_CONTENT_BYTES = 16_384;

/** Returns the client's first secret for application data, once the handshake is over. */
export function clientSecret(socket: TLSSocket): Promise<Buffer> {
  return new Promise((resolve) =>
    socket.on('keylog', (line: Buffer) => {
      const [label, , secret = ''] = line.toString().trim().split(' ');
      if (label === 'CLIENT_TRAFFIC_SECRET_0') resolve(Buffer.from(secret, 'hex'));
    }),
  );
}

/** Makes the records that a client sends, one after another. */
export class RecordMaker {
  #secret: Buffer;
  #key: Uint8Array = Buffer.alloc(0);
  #iv: Uint8Array = Buffer.alloc(0);
  #sequence = 0n;

  constructor(secret: Buffer) {
    this.#secret = secret;
    this.#useSecret(secret);
  }

  /** Returns records with these bytes as application data. */
  data(bytes: Buffer): Buffer {
    const records: Buffer[] = [];
    for (let from = 0; from < bytes.length; from += MOST_CONTENT_BYTES) {
      records.push(
        this.#record(TYPE.applicationData, bytes.subarray(from, from + MOST_CONTENT_BYTES)),
      );
    }
    return Buffer.concat(records);
  }

  /** Returns a key update, which asks the peer for one of its own. */
  keyUpdate(): Buffer {
    const record = this.#record(TYPE.handshake, Buffer.from([KEY_UPDATE, 0, 0, 1, 1]));
    this.#useSecret(expandLabel(this.#secret, 'traffic upd', HASH_BYTES));
    return record;
  }

  #useSecret(secret: Buffer): void {
    this.#secret = secret;
    this.#key = expandLabel(secret, 'key', 16);
    this.#iv = expandLabel(secret, 'iv', 12);
    this.#sequence = 0n;
  }

  #record(type: number, content: Buffer): Buffer {
    const nonce = Buffer.from(this.#iv);
    nonce.writeBigUInt64BE(nonce.readBigUInt64BE(4) ^ this.#sequence, 4);
    this.#sequence += 1n;
    const length = content.length + 1 + TAG_BYTES;
    const head = Buffer.from([TYPE.applicationData, 3, 3, length >> 8, length & 0xff]);
    const cipher = createCipheriv('aes-128-gcm', this.#key, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(head);
    const sealed = [cipher.update(content), cipher.update(Buffer.from([type])), cipher.final()];
    return Buffer.concat([head, ...sealed, cipher.getAuthTag()]);
  }
}

/** HKDF-Expand-Label with SHA-256 and no context (RFC 8446, 7.1), to 32 bytes at most. */
function expandLabel(secret: Buffer, label: string, bytes: number): Buffer {
  const full = Buffer.from(`tls13 ${label}`);
  const info = Buffer.concat([Buffer.from([0, bytes, full.length]), full, Buffer.from([0, 1])]);
  return createHmac('sha256', secret).update(info).digest().subarray(0, bytes);
}
