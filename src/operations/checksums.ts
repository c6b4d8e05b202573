/**
 * Checksums of bytes on their way: CRC-32C, of what a caller sends and of what is answered.
 */
import { KeywardError } from '../errors.ts';
import { crc32c } from './crc32c.ts';

/**
 * Throws CHECKSUM_MISMATCH, naming the field of the checksum, unless that, where there is one, is
 * the one of the bytes.
 */
export function verifyChecksum(field: string, content: Buffer, expected: number | undefined): void {
  if (expected === undefined || expected === crc32c(content)) return;
  throw new KeywardError('CHECKSUM_MISMATCH', {
    fields: [{ field, description: 'must match the bytes that arrived' }],
  });
}
