/**
 * AES-256-GCM (SP 800-38D) as Keyward uses it: 32-byte keys, 12-byte IVs, 16-byte tags, and no
 * other lengths.
 *
 * The lengths are checked here because what is underneath accepts shorter ones. Invariant: no
 * plaintext is returned before its tag is verified. Doesn't know where keys, IVs and additional
 * data come from.
 */
import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto';

const KEY_BYTES = 32;
export const IV_BYTES = 12;
export const TAG_BYTES = 16;

/**
 * Encrypts into `target`: as many bytes as the plaintext has, then the tag. Throws RangeError for
 * other lengths.
 */
export function encryptInto(
  target: Buffer,
  key: KeyObject,
  iv: Uint8Array,
  additionalData: Uint8Array,
  plaintext: Uint8Array,
): void {
  checkLengths(key, iv);
  if (target.length !== plaintext.length + TAG_BYTES)
    throw new RangeError('the target has another length');
  const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES });
  cipher.setAAD(additionalData);
  cipher.update(plaintext).copy(target);
  cipher.final();
  cipher.getAuthTag().copy(target, plaintext.length);
}

/**
 * The plaintext of `sealed` (encrypted bytes, then the tag), or undefined when the tag doesn't
 * verify.
 */
export function decrypt(
  key: KeyObject,
  iv: Uint8Array,
  additionalData: Uint8Array,
  sealed: Uint8Array,
): Buffer | undefined {
  checkLengths(key, iv);
  const tagOffset = sealed.length - TAG_BYTES;
  if (tagOffset < 0) return undefined;
  const decipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES });
  decipher.setAAD(additionalData);
  decipher.setAuthTag(sealed.subarray(tagOffset));
  const plaintext = decipher.update(sealed.subarray(0, tagOffset));
  try {
    decipher.final();
    return plaintext;
  } catch {
    plaintext.fill(0);
    return undefined;
  }
}

function checkLengths(key: KeyObject, iv: Uint8Array): void {
  if (key.symmetricKeySize !== KEY_BYTES) throw new RangeError('an AES-256 key has 32 bytes');
  if (iv.length !== IV_BYTES) throw new RangeError('an IV has 12 bytes');
}
