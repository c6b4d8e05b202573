/**
 * What fields of requests may be: one zod schema for each kind, from the wire's shape to the
 * keyring's.
 *
 * Invariant: whatever passes has been looked at to the end, so that bad input never reaches the
 * HSM. Knows fields, not methods.
 */
import { z } from 'zod';
import { type FieldViolation, KeywardError } from '../../errors.ts';
import { MAX_PLAINTEXT_BYTES } from '../../hsm/ciphertext.ts';
import {
  type EncryptionContext,
  findContextProblem,
} from '../../keyring/keys/encryption-context.ts';
import {
  ID_PATTERN,
  ID_RULE,
  parseAlertSilenceName,
  parseApprovalRulesName,
  parseCanaryName,
  parseDataKeyName,
  parseJobName,
  parseKeyName,
  parseKeyVersionName,
  parsePasskeyName,
  parsePendingOperationName,
  parseRoleBindingName,
  parseRoleName,
  parseScope,
  parseSuspensionName,
  parseTenantName,
  parseTokenKeyName,
  SYSTEM_TENANT,
} from '../../names.ts';
import type { Condition } from '../../store/core/conditions.ts';
import { ANY_TEXT, type FilterFields, parseFilter } from './filter.ts';
import { enumerationValues } from './proto.ts';

const DEFAULT_PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;
/** How many bytes a data key may have. */
export const DATA_KEY_LENGTHS: readonly number[] = [16, 32, 64];
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
export const keyVersionName = parsed(
  parseKeyVersionName,
  'must be tenants/{tenant}/keys/{key}/versions/{version}',
);
export const dataKeyName = parsed(
  parseDataKeyName,
  'must be tenants/{tenant}/keys/{key}/dataKeys/{data_key}',
);
export const jobName = parsed(parseJobName, 'must be tenants/{tenant}/rewrapJobs/{job}');
export const tokenKeyName = parsed(parseTokenKeyName, 'must be tenants/{tenant}/tokenKeys/{uuid}');
export const roleBindingName = parsed(
  parseRoleBindingName,
  'must be tenants/{tenant}/roleBindings/{role_binding}',
);
export const roleName = parsed(parseRoleName, 'must be tenants/{tenant}/roles/{role}');
export const canaryName = parsed(parseCanaryName, 'must be tenants/{tenant}/canaries/{canary}');
export const suspensionName = parsed(
  parseSuspensionName,
  'must be tenants/{tenant}/suspensions/{suspension}',
);
export const pendingOperationName = parsed(
  parsePendingOperationName,
  'must be tenants/{tenant}/pendingOperations/{uuid}',
);
export const scope = parsed(
  parseScope,
  'must be tenants/{tenant}/keys/{key}, tenants/{tenant} or tenants/- for all tenants',
);
export const approvalRulesName = parsed(
  parseApprovalRulesName,
  'must be tenants/{tenant}/approvalRules',
);
/** A silence's UUID. */
export const alertSilenceName = parsed(parseAlertSilenceName, 'must be alertSilences/{uuid}');
/** A passkey's credential id. */
export const passkeyName = parsed(parsePasskeyName, 'must be passkeys/{credential id}');
/** The last part of a tenant's name, or `-` for all tenants. */
export const tenantOrAll = parsed(
  (name) => (name === 'tenants/-' ? '-' : parseTenantName(name)?.tenant),
  'must be tenants/{tenant}, or tenants/- for all tenants',
);
/** What a job is to bring up to date. */
export const jobKind = z
  .enum(
    ['REWRAP_JOB_KIND_UNSPECIFIED', 'REWRAP_JOB_KIND_DATA_KEYS', 'REWRAP_JOB_KIND_KEY_VERSIONS'],
    'must be a known kind',
  )
  .transform((kind) => (kind === 'REWRAP_JOB_KIND_KEY_VERSIONS' ? 'key-versions' : 'data-keys'));
/** A key's name, or absent. */
export const optionalKeyName = z.union([z.literal('').transform(() => undefined), keyName]);

/** The last part of a new resource's name. */
export const newId = z.string().regex(ID_PATTERN, ID_RULE);
/** The last part of a new tenant's name. */
export const newTenantId = newId.refine(
  (id) => id !== SYSTEM_TENANT,
  'must not be a reserved name',
);
/** The tenant of a new key. */
export const keyParent = tenantName.refine(
  ({ tenant }) => tenant !== SYSTEM_TENANT,
  'must be a tenant that can have keys',
);

const bytes = z.custom<Buffer>(Buffer.isBuffer, 'must be bytes');
export const plaintext = bytes.refine(
  ({ length }) => length <= MAX_PLAINTEXT_BYTES,
  `must be at most ${MAX_PLAINTEXT_BYTES} bytes`,
);
/** So many bytes. */
export const bytesOf = (least: number, most: number) =>
  bytes.refine(
    ({ length }) => length >= least && length <= most,
    `must be ${least} to ${most} bytes`,
  );
/** Client data of a passkey, which browsers write. */
export const MAX_CLIENT_DATA_BYTES = 8 * 1_024;
/** Of any length and content: whether it opens is the keyring's to say. */
export const ciphertext = bytes;

/**
 * An encryption context, as a Map: own properties only, so that `__proto__` is a key like any
 * other.
 */
export const encryptionContext = z.custom<Record<string, string>>().transform((map, context) => {
  const entries: EncryptionContext = new Map(Object.entries(map));
  const problem = findContextProblem(entries);
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  return entries;
});

/** The etag that the caller knows the resource by; empty for whatever it is now. */
export const etag = z.string().max(64, 'must be an etag');

const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
/** The caller's id for the request; empty for none. */
export const requestId = z
  .string()
  .refine((id) => id === '' || UUID4.test(id), 'must be a UUID of version 4')
  .transform((id) => id.toLowerCase());

const MAX_DESCRIPTION = 1_024;
/** Text for people, kept as it is; nothing in it that could forge a line of a log or a page. */
export const description = z
  .string()
  .refine(
    (text) => [...text].length <= MAX_DESCRIPTION,
    `must have at most ${MAX_DESCRIPTION} characters`,
  )
  .refine(
    (text) => !/[\ufffd\p{Cc}\p{Cs}]/u.test(text.replaceAll('\n', '')),
    'must not have control characters or invalid UTF-8',
  );

const MAX_LABELS = 64;
const LABEL_NAME = /^[a-z][a-z0-9_-]{0,62}$/;
const LABEL_VALUE = /^[^\p{Cc}\p{Cs}\ufffd]{0,63}$/u;
export const labels = z
  .custom<Record<string, string>>()
  .refine((map) => Object.keys(map).length <= MAX_LABELS, `must have at most ${MAX_LABELS} entries`)
  .refine(
    (map) => Object.keys(map).every((name) => LABEL_NAME.test(name)),
    'must have names that match [a-z]([a-z0-9_-]{0,62})',
  )
  .refine(
    (map) => Object.values(map).every((value) => LABEL_VALUE.test(value)),
    'must have values of at most 63 characters, none of them control characters',
  );

/** A duration of whole seconds; null when absent. */
export const duration = z
  .custom<{ readonly seconds: number; readonly nanos: number } | null>()
  .refine((value) => value === null || value.nanos === 0, 'must be whole seconds')
  .transform((value) => value?.seconds ?? null);

/** From the year 1 to 9999, as protobuf has it; null when absent. */
export const time = z
  .custom<{ readonly seconds: number; readonly nanos: number } | null>()
  .refine(
    (value) =>
      value === null || (value.seconds >= -62_135_596_800 && value.seconds <= 253_402_300_799),
    'must be a time',
  )
  .transform((value) => value && new Date(value.seconds * 1000 + Math.floor(value.nanos / 1e6)));

/** How many of something at most; null for 0. */
export const limit = z
  .number()
  .refine((limit) => limit >= 0 && Number.isSafeInteger(limit), 'must be 0 to 2^53 − 1')
  .transform((limit) => (limit === 0 ? null : limit));

const MAX_EPOCH_MESSAGES = 100_000;
/** For how many messages the key of an epoch is kept; null for 0. */
export const epochMaxMessages = limit.refine(
  (count) => count === null || count <= MAX_EPOCH_MESSAGES,
  `must be 0 to ${MAX_EPOCH_MESSAGES}`,
);
const MAX_EPOCH_SECONDS = 3_600;
/** For how long it is kept, in seconds; null when absent. */
export const epochMaxAge = duration.refine(
  (seconds) => seconds === null || (seconds >= 1 && seconds <= MAX_EPOCH_SECONDS),
  'must be 1 second to 1 hour',
);

const DESTRUCTION_DAYS = { default: 30, least: 7, most: 120 };
export const destructionWindow = z
  .number()
  .transform((days) => (days === 0 ? DESTRUCTION_DAYS.default : days))
  .refine(
    (days) => days >= DESTRUCTION_DAYS.least && days <= DESTRUCTION_DAYS.most,
    `must be ${DESTRUCTION_DAYS.least} to ${DESTRUCTION_DAYS.most}`,
  );

/** What UpdateKey may change. */
const MUTABLE_KEY_FIELDS = [
  'description',
  'labels',
  'rotation_period',
  'next_rotation_time',
  'rotation_usage_limit',
  'maintenance_paused',
  'epoch_max_messages',
  'epoch_max_age',
] as const;
/** An update mask: which of these fields, at least one. */
const maskOf = <Path extends string>(mutable: readonly Path[]) =>
  z.custom<{ readonly paths: readonly string[] } | null>().transform((mask, context) => {
    const paths = mutable.filter((path) => mask?.paths.includes(path));
    const unknown = mask?.paths.find((path) => !mutable.some((known) => known === path));
    if (unknown !== undefined)
      context.addIssue({
        code: 'custom',
        message: `must not name ${unknown}, which cannot be changed`,
      });
    else if (paths.length === 0)
      context.addIssue({ code: 'custom', message: 'must name at least one field to change' });
    return paths;
  });
export const keyMask = maskOf(MUTABLE_KEY_FIELDS);
export const keyToUpdate = z.object(
  {
    name: keyName,
    etag,
    description,
    labels,
    rotationPeriod: duration,
    nextRotationTime: time,
    rotationUsageLimit: limit,
    maintenancePaused: z.boolean(),
    epochMaxMessages,
    epochMaxAge,
  },
  'must be given',
);

/** What UpdateTenant may change. */
const MUTABLE_TENANT_FIELDS = [
  'quotas',
  'quotas.calls_per_second',
  'quotas.keys',
  'quotas.stored_data_keys',
] as const;
export const tenantMask = maskOf(MUTABLE_TENANT_FIELDS);
const noQuotas = { callsPerSecond: null, keys: null, storedDataKeys: null };
export const tenantToUpdate = z.object(
  {
    name: tenantName,
    etag,
    quotas: z
      .object({ callsPerSecond: limit, keys: limit, storedDataKeys: limit })
      .nullable()
      .transform((quotas) => quotas ?? noQuotas),
  },
  'must be given',
);

const MAX_RANDOM_BYTES = 1_024;
export const randomLength = z
  .number()
  .refine(
    (length) => length >= 1 && length <= MAX_RANDOM_BYTES,
    `must be 1 to ${MAX_RANDOM_BYTES}`,
  );

/** The message of a field of bytes and the checksum that may come with it. */
export const checksum = z.number().optional();

export const dataKeyLength = z
  .number()
  .transform((length) => (length === 0 ? DEFAULT_DATA_KEY_LENGTH : length))
  .refine(
    (length) => DATA_KEY_LENGTHS.includes(length),
    `must be one of ${DATA_KEY_LENGTHS.join(', ')}`,
  );

/** The fields of every list request. */
export const pageOnly = {
  pageSize: z
    .number()
    .transform((size) => (size === 0 ? DEFAULT_PAGE_SIZE : size))
    .refine((size) => size >= 1 && size <= MAX_PAGE_SIZE, `must be 0 to ${MAX_PAGE_SIZE}`),
  pageToken: z.string(),
};

export { ANY_TEXT };

/** An enumeration's values as filters and people name them: `ENABLED` of `KEY_STATE_ENABLED`. */
export function valuesOf(enumeration: string): readonly string[] {
  const [unspecified = '', ...known] = enumerationValues(`keyward.v1.${enumeration}`);
  const prefix = unspecified.replace(/UNSPECIFIED$/, '');
  return known.map((name) => name.slice(prefix.length));
}

/** A filter, which may name `fields`. */
export const filter = (fields: FilterFields) =>
  z.string().transform((text, context) => {
    const conditions = parseFilter(text, fields);
    if (typeof conditions !== 'string') return conditions;
    context.addIssue({ code: 'custom', message: conditions });
    return z.NEVER;
  });

/** The fields of a list request with a filter. */
export const page = (fields: FilterFields) => ({ ...pageOnly, filter: filter(fields) });

/** What every request that changes something also has. */
export const change = { etag, requestId };
/** What every request that schedules a destruction also has. */
export const destruction = {
  ...change,
  windowDays: destructionWindow,
  validateOnly: z.boolean(),
};

/** Names what a filter came to. */
export const filtered = <R extends { readonly filter: readonly Condition[] }>({
  filter: conditions,
  ...rest
}: R) => ({ ...rest, conditions });

/** Names what an encryption context is to an operation. */
export const withContext = <R extends { readonly encryptionContext: EncryptionContext }>({
  encryptionContext: context,
  ...rest
}: R) => ({ ...rest, context });

/** 0 or more of something. */
export const count = z
  .number()
  .refine((value) => value >= 0 && Number.isSafeInteger(value), 'must be 0 to 2^53 − 1');

/** Returns a field's name as the proto spells it. */
export function protoName(field: string): string {
  return field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/**
 * The request as its schema makes it. Throws INVALID_FIELD with every field that is wrong, in the
 * proto's spelling.
 */
export function validate<T>(schema: z.ZodType<T>, request: unknown): T {
  const result = schema.safeParse(request);
  if (result.success) return result.data;
  const fields: FieldViolation[] = result.error.issues.map(({ path, message }) => ({
    field: protoName(String(path[0] ?? '')),
    description: message,
  }));
  const message = fields.map(({ field, description }) => `${field}: ${description}`).join('; ');
  throw new KeywardError('INVALID_FIELD', { message, fields });
}
