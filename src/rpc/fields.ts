/**
 * What fields of requests may be: one zod schema for each kind, from the wire's shape to the keyring's.
 *
 * Invariant: whatever passes has been looked at to the end, so that bad input never reaches the HSM. Knows fields, not
 * methods.
 */
import { z } from 'zod';
import { type FieldViolation, KeywardError } from '../errors.ts';
import { MAX_PLAINTEXT_BYTES } from '../hsm/ciphertext.ts';
import { checkEncryptionContext, type EncryptionContext } from '../keyring/encryption-context.ts';
import { ID_PATTERN, ID_RULE, parseKeyName, parseTenantName, SYSTEM_TENANT } from '../keyring/names.ts';

const DEFAULT_PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;
const DATA_KEY_LENGTHS: readonly number[] = [16, 32, 64];
const DEFAULT_DATA_KEY_LENGTH = 32;

/** A string that `parse` understands, or an issue that says what it should have been. */
const parsed = <T>(parse: (text: string) => T | undefined, rule: string) =>
  z.string().transform((text, context) => {
    const value = parse(text);
    if (value !== undefined) return value;
    context.addIssue({ code: 'custom', message: rule });
    return z.NEVER;
  });

export const tenantName = parsed(parseTenantName, 'must be tenants/{tenant}');
export const keyName = parsed(parseKeyName, 'must be tenants/{tenant}/keys/{key}');
/** A key's name, or absent. */
export const optionalKeyName = z.union([z.literal('').transform(() => undefined), keyName]);

/** The last part of a new resource's name. */
export const newId = z.string().regex(ID_PATTERN, ID_RULE);
/** The last part of a new tenant's name. */
export const newTenantId = newId.refine((id) => id !== SYSTEM_TENANT, 'is reserved');
/** The tenant of a new key. */
export const keyParent = tenantName.refine(({ tenant }) => tenant !== SYSTEM_TENANT, 'has no keys');

const bytes = z.custom<Buffer>(Buffer.isBuffer, 'must be bytes');
export const plaintext = bytes.refine(
  ({ length }) => length <= MAX_PLAINTEXT_BYTES,
  `must be at most ${MAX_PLAINTEXT_BYTES} bytes`,
);
/** Of any length and content: whether it opens is the keyring's to say. */
export const ciphertext = bytes;

export const encryptionContext = z.custom<Record<string, string>>().transform((map, context) => {
  // Own properties only, into a Map: `__proto__` is a key like any other.
  const entries: EncryptionContext = new Map(Object.entries(map));
  try {
    checkEncryptionContext(entries, 'encryption_context');
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    for (const { description } of error.fields) context.addIssue({ code: 'custom', message: description });
  }
  return entries;
});

export const dataKeyLength = z
  .number()
  .transform((length) => (length === 0 ? DEFAULT_DATA_KEY_LENGTH : length))
  .refine((length) => DATA_KEY_LENGTHS.includes(length), `must be one of ${DATA_KEY_LENGTHS.join(', ')}`);

/** The two fields of every list request. */
export const page = {
  pageSize: z
    .number()
    .transform((size) => (size === 0 ? DEFAULT_PAGE_SIZE : size))
    .refine((size) => size >= 1 && size <= MAX_PAGE_SIZE, `must be 0 to ${MAX_PAGE_SIZE}`),
  pageToken: z.string(),
};

/** The request as its schema makes it. Throws INVALID_FIELD with every field that is wrong, in the proto's spelling. */
export function validate<T>(schema: z.ZodType<T>, request: unknown): T {
  const result = schema.safeParse(request);
  if (result.success) return result.data;
  const fields: FieldViolation[] = result.error.issues.map(({ path, message }) => ({
    field: String(path[0] ?? '').replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    description: message,
  }));
  const message = fields.map(({ field, description }) => `${field}: ${description}`).join('; ');
  throw new KeywardError('INVALID_FIELD', { message, fields });
}
