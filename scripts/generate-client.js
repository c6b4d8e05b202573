/**
 * Generates the client's wire layer out of the contract, into `client/src/generated/`:
 *
 * - `messages.ts`: the types that callers see, with the contract's comments;
 * - `shapes.ts`: what `client/src/convert.ts` has to know of each message, and where methods are;
 * - `calls.ts`: a method for each RPC, and a walk for each list;
 * - `crc32c.ts`: the service's, since a client is a package of its own.
 *
 * Owns what the contract doesn't say: names, what must be given and what must be there, what only
 * the service sets. A file is replaced whole, and only when it is to be another. Plain JavaScript
 * for Node 20.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { callsFile, messagesFile, replaceFile, shapesFile } from './client-text.js';
import { ROOT } from './node-modules.js';

const CONTRACT = 'keyward/v1';
const CRC32C = 'src/operations/crc32c.ts';
const OUTPUT = join(ROOT, 'client/src/generated');

/**
 * What a request must have, and which messages an answer must: by field, or by message and field
 * where that is different. All else may be absent.
 *
 * @type {Readonly<Record<string, boolean>>}
 */
const REQUIRED = {
  ...always('name', 'parent', 'scope', 'resource', 'tenantId', 'keyId', 'roleId'),
  ...always(
    'plaintext',
    'ciphertext',
    'requests',
    'note',
    'leafIndex',
    'firstLeafIndex',
    'fromSize',
  ),
  ...always('principal', 'role', 'permission', 'permissions', 'contextKey', 'claim', 'value'),
  ...always('tenant', 'key', 'keyVersion', 'dataKey', 'roleBinding', 'impact', 'primary'),
  ...always('module', 'profile', 'createTime', 'rotateTime', 'signTime', 'time'),
  'DecryptRequest.key': false,
  'GenerateRandomBytesRequest.length': true,
  'DestructionImpact.destroyTime': true,
  'DestructionImpact.usage': true,
  'Alert.firstTime': true,
  'Alert.lastTime': true,
  'AlertSilence.expireTime': true,
  'SilenceAlertRequest.alert': true,
  'SilenceAlertRequest.expireTime': true,
  'ShredImpact.shredTime': true,
  'ServiceStatus.database': true,
  'ServiceStatus.maintenance': true,
  'ServiceStatus.auditLog': true,
  'ReplicaReport.seenTime': true,
  'Role.createTime': false,
  'CreateCanaryRequest.kind': true,
  'UpdateApprovalRulesRequest.approvalRules': true,
  'ApprovalRule.ruleId': true,
  'ApprovalRule.permissions': false,
  'StepUpRule.permissions': false,
  'ApprovalRule.approvals': true,
  'CreateSuspensionRequest.caller': true,
  'ListPasskeysRequest.principal': false,
  'RegisterPasskeyRequest.credentialId': true,
  'RegisterPasskeyRequest.clientDataJson': true,
  'RegisterPasskeyRequest.attestationObject': true,
  ...always('authenticatorData', 'signature'),
  'PasskeyAssertion.credentialId': true,
  'PasskeyAssertion.clientDataJson': true,
  'BeginPasskeyRegistrationResponse.expireTime': true,
  'CreateCanaryResponse.canary': true,
  // Nothing of it is known where its key is destroyed.
  'Canary.createTime': false,
  // Only where it was asked for.
  'CreateDataKeyResponse.plaintext': false,
  'CreateDataKeyResponse.plaintextCrc32c': false,
};

/** What is taken for a message with nothing in it where it is absent: older services send none. */
const EMPTY_WHEN_ABSENT = new Set(['Tenant.quotas']);

/** What the service sets: not a part of what a caller creates or updates. */
const OUTPUT_ONLY = new Set([
  ...['uid', 'primary', 'createTime', 'creator', 'state', 'destroyTime', 'destroyEventTime'],
  ...['dedicatedRootKey', 'shredTime', 'RoleBinding.name', 'Role.name'],
  ...['ApprovalRules.updateTime', 'ApprovalRules.revision'],
]);

/** The names of this file's messages and methods say too little in a client of all services. */
const PREFIXED = { file: 'audit.proto', prefix: 'Audit' };

const REQUEST_ID_NOTE =
  'Absent: one of the client’s making for each call, so that the client may try again. Give your' +
  ' own to repeat the call yourself when its outcome is unknown.';

/** @param {readonly string[]} fields */
function always(...fields) {
  return Object.fromEntries(fields.map((field) => [field, true]));
}

/** @typedef {import('./client-text.js').Wire} Wire */
/** @typedef {import('./client-text.js').Field} Field */
/** @typedef {import('./client-text.js').Shape} Shape */
/** @typedef {import('./client-text.js').Enum} Enum */
/** @typedef {import('./client-text.js').Method} Method */

/** Generates what is out of date. */
export function generateClient() {
  const contract = new Contract(readContract());
  const { methods, shapes, enums } = contract;
  const files = {
    'messages.ts': messagesFile(shapes, enums, methods),
    'shapes.ts': shapesFile(shapes, enums, methods),
    'calls.ts': callsFile(shapes, methods),
    'crc32c.ts': readFileSync(join(ROOT, CRC32C), 'utf8'),
  };
  mkdirSync(OUTPUT, { recursive: true });
  for (const [name, text] of Object.entries(files)) replaceFile(join(OUTPUT, name), text);
  for (const name of readdirSync(OUTPUT).filter((name) => !(name in files)))
    rmSync(join(OUTPUT, name), { recursive: true });
}

/** Loads protobufjs when it is needed: this file is read before anything is installed. */
function readContract() {
  /** @type {import('protobufjs')} */
  const protobuf = createRequire(import.meta.url)('protobufjs');
  const root = new protobuf.Root();
  root.resolvePath = (_, name) => (name.startsWith(ROOT) ? name : join(ROOT, 'proto', name));
  const files = readdirSync(join(ROOT, 'proto', CONTRACT)).map((name) => `${CONTRACT}/${name}`);
  root.loadSync(files.sort(), { alternateCommentMode: true });
  return root.resolveAll();
}

/** The contract's methods, and all messages and enums that they reach, as callers see them. */
class Contract {
  /** @type {Method[]} */
  methods = [];
  /** @type {Map<string, Shape>} */
  shapes = new Map();
  /** @type {Map<string, Enum>} */
  enums = new Map();
  /** RPCs, messages and durations by their names in the contract, to find them in comments. */
  #names = new Map();

  /** @param {import('protobufjs').Root} root */
  constructor(root) {
    const all = root.lookup('keyward.v1').nestedArray;
    const services = all.filter((each) => 'methodsArray' in each);
    for (const message of all) {
      this.#names.set(message.name, publicName(message));
      for (const field of message.fieldsArray ?? [])
        if (isDuration(field)) this.#names.set(field.name, secondsName(field));
    }
    for (const service of services) {
      for (const rpc of service.methodsArray) this.#names.set(rpc.name, methodName(rpc));
    }
    // Answers first: a request's message that is in an answer too has a name of its own.
    const rpcs = services.flatMap((service) => service.methodsArray);
    for (const rpc of rpcs) this.#answer(rpc.resolvedResponseType);
    for (const rpc of rpcs) this.methods.push(this.#method(rpc));
  }

  /** @param {import('protobufjs').Method} rpc */
  #method(rpc) {
    const [request, answer] = [rpc.resolvedRequestType, rpc.resolvedResponseType];
    const isBatch = rpc.name.startsWith('Batch');
    const [list] = rpc.responseStream || isBatch ? answer.fieldsArray : [];
    // A stream of messages that are nothing but a list is a stream of lists.
    const isList = list?.repeated === true && answer.fieldsArray.length === 1;
    const item = isBatch ? list.resolvedType.fields.response : list;
    const shape = isList ? this.#answer(item.resolvedType) : this.#answer(answer);
    return {
      name: methodName(rpc),
      path: `/${rpc.parent.fullName.slice(1)}/${rpc.name}`,
      comment: this.#translated(rpc.comment, (name) => `{@link ${name}}`),
      request: this.#request(request, rpc.name),
      ...(shape !== undefined && { answer: shape }),
      stream: rpc.responseStream === true,
      ...(isList && { list: list.name }),
      batch: isBatch,
    };
  }

  /**
   * The shape of an answer, or of a part of one; none of an empty one.
   *
   * @param {import('protobufjs').Type} message
   */
  #answer(message) {
    if (message.fullName === '.google.protobuf.Empty') return undefined;
    const name = publicName(message);
    if (message.name.startsWith('Batch') || this.shapes.has(name)) return name;
    this.#add(name, message, false, (field) => {
      const wire = this.#wire(field, (type) => this.#answer(type));
      const isMessage = field.resolvedType !== null && 'fieldsArray' in field.resolvedType;
      const isSingle = isMessage && !field.map && !field.repeated;
      const required = field.partOf === null ? isRequired(message, field) : false;
      const isAbsent = isSingle ? required !== true && !wire.emptyWhenAbsent : required === false;
      return {
        wire: { ...wire, ...(isSingle && required && { required: true }) },
        type: `${typeOf(wire, false)}${isAbsent ? ' | undefined' : ''}`,
        isOptional: false,
      };
    });
    return name;
  }

  /**
   * The shape of a request, or of a part of one.
   *
   * @param {import('protobufjs').Type} message
   * @param {string} rpc
   */
  #request(message, rpc) {
    const isPart = !message.name.endsWith('Request');
    const isUpdate = rpc.startsWith('Update');
    const own = publicName(message);
    const isInAnswers = this.shapes.get(own)?.isRequest === false;
    const name = isInAnswers ? (isUpdate ? `${own}Update` : `New${own}`) : own;
    if (this.shapes.has(name)) return name;
    this.#add(name, message, true, (field) => {
      if (isPart && isOutputOnly(message, field)) return undefined;
      const wire = this.#wire(field, (type) => this.#request(type, rpc));
      requireSendable(wire, message);
      const required = wire.oneof === undefined && isRequired(message, field) === true;
      const isNullable = isUpdate && (wire.kind === 'date' || wire.kind === 'seconds');
      return {
        wire: {
          ...wire,
          ...(required && { required: true }),
          ...(isNullable && { nullable: true }),
        },
        type: `${typeOf(wire, true)}${isNullable ? ' | null' : ''}`,
        isOptional: !required,
      };
    });
    return name;
  }

  /**
   * @param {string} name
   * @param {import('protobufjs').Type} message
   * @param {boolean} isRequest
   * @param {(field: import('protobufjs').Field) => Omit<Field, 'comment'> | undefined} describe
   */
  #add(name, message, isRequest, describe) {
    // Before its fields, which may be of its own type.
    this.shapes.set(name, { name, comment: '', fields: [], isRequest });
    const fields = message.fieldsArray.flatMap((field) => {
      const described = describe(field);
      return described === undefined
        ? []
        : [{ ...described, comment: this.#fieldComment(field, described.wire, isRequest) }];
    });
    const comment = message.comment ?? '';
    this.shapes.set(name, { name, comment: this.#translated(comment), fields, isRequest });
  }

  /**
   * @param {import('protobufjs').Field} field
   * @param {(type: import('protobufjs').Type) => string | undefined} shapeOf
   * @returns {Wire}
   */
  #wire(field, shapeOf) {
    const { name, resolvedType, repeated, partOf } = field;
    const oneof = partOf && !partOf.isProto3Optional ? partOf.name : undefined;
    const shared = {
      name,
      as: name,
      ...(repeated && { repeated: true }),
      ...(oneof && { oneof }),
      ...(partOf?.isProto3Optional && { optional: true }),
    };
    const checksum = /^(verified)?(.+)Crc32c$/.exec(name);
    if (checksum) {
      const of = `${checksum[2][0].toLowerCase()}${checksum[2].slice(1)}`;
      return { ...shared, kind: checksum[1] ? 'verified' : 'checksum', of };
    }
    if (name === 'requestId') return { ...shared, kind: name };
    if (field.map) return { ...shared, kind: 'strings' };
    if (resolvedType === null) return { ...shared, kind: field.type };
    if ('values' in resolvedType) {
      return { ...shared, kind: 'enum', of: this.#enum(resolvedType) };
    }
    switch (resolvedType.fullName) {
      case '.google.protobuf.Timestamp':
        return { ...shared, kind: 'date' };
      case '.google.protobuf.Duration':
        return { ...shared, kind: 'seconds', as: secondsName(field) };
      case '.google.protobuf.FieldMask':
        return { ...shared, kind: 'mask' };
    }
    const [only, ...others] = resolvedType.fieldsArray;
    if (only?.repeated && others.length === 0) return { ...shared, kind: 'list', of: only.name };
    const emptyWhenAbsent = EMPTY_WHEN_ABSENT.has(`${field.parent?.name}.${name}`);
    return {
      ...shared,
      kind: 'message',
      of: shapeOf(resolvedType),
      ...(emptyWhenAbsent && { emptyWhenAbsent }),
    };
  }

  /** @param {import('protobufjs').Enum} type */
  #enum({ name, comment, comments, values }) {
    const prefix = `${name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()}_`;
    const words = Object.entries(values).map(([value, number]) => ({
      name: value.slice(prefix.length),
      number,
      comment: this.#translated(comments[value]),
    }));
    this.enums.set(name, { name, comment: this.#translated(comment), values: words });
    return name;
  }

  /**
   * @param {import('protobufjs').Field} field
   * @param {Wire} wire
   * @param {boolean} isRequest
   */
  #fieldComment(field, wire, isRequest) {
    const comment = field.comment ?? '';
    const bytes = `\`${wire.of}\``;
    switch (wire.kind) {
      case 'checksum':
        return isRequest
          ? `CRC32C of ${bytes}, where its source has made one; the client makes it otherwise.`
          : `CRC32C of ${bytes}. The client has compared them.`;
      case 'verified':
        return (
          `Whether the service has compared ${bytes} with its checksum;` +
          ' true unless checksums are off.'
        );
      case 'requestId':
        return `${comment}\n\n${REQUEST_ID_NOTE}`;
      case 'mask':
        return `${comment}\n\nAbsent: those that are given.`;
      default:
        // A filter names fields as the contract does.
        return wire.name === 'filter' ? comment : this.#translated(comment);
    }
  }

  /** @param {string} name as a comment of the contract has it */
  #fieldName(name) {
    const camelCase = name.replaceAll(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());
    return this.#names.get(camelCase) ?? camelCase;
  }

  /**
   * A comment of the contract, with the client's names in it.
   *
   * @param {string | null} comment
   * @param {(name: string) => string} link
   */
  #translated(comment, link = (name) => `\`${name}\``) {
    return (comment ?? '')
      .replaceAll(
        /`([a-z0-9_.]+)`|\b([A-Z][A-Za-z]+)\.([a-z_]+)\b/g,
        (all, quoted, type, field) => {
          if (quoted !== undefined) return `\`${this.#fieldName(quoted)}\``;
          return this.#names.has(type)
            ? `\`${this.#names.get(type)}.${this.#fieldName(field)}\``
            : all;
        },
      )
      .replaceAll(/(?<![`.])\b[A-Z][A-Za-z]+\b(?![`.][a-z])/g, (word) => {
        const name = this.#names.get(word);
        if (name === undefined || name === word) return word;
        return /^[a-z]/.test(name) ? link(name) : name;
      });
  }
}

/** @param {import('protobufjs').Field} field */
function isDuration({ resolvedType }) {
  return resolvedType?.fullName === '.google.protobuf.Duration';
}

/** @param {import('protobufjs').Field} field */
function secondsName({ name }) {
  return `${name}Seconds`;
}

/** @param {import('protobufjs').ReflectionObject} object */
function publicName({ name, filename, parent }) {
  const file = filename ?? parent?.filename;
  if (!file?.endsWith(PREFIXED.file) || name.endsWith('Service')) return name;
  return name.replace(/^(List|Read|Get|Add)?(?:Audit)?/, `$1${PREFIXED.prefix}`);
}

/** @param {import('protobufjs').Method} rpc */
function methodName(rpc) {
  const name = publicName(rpc);
  return `${name[0].toLowerCase()}${name.slice(1)}`;
}

/**
 * Throws for a request's field of a kind that `convert.ts` doesn't send yet.
 *
 * @param {Wire} wire
 * @param {import('protobufjs').Type} message
 */
function requireSendable({ name, kind, repeated }, message) {
  if (repeated ? /^(string|message)$/.test(kind) : !/^(uint\d\d|double|float)$/.test(kind)) return;
  throw new Error(`client/src/convert.ts can't send ${message.name}.${name}: ${kind}`);
}

/**
 * @param {import('protobufjs').Type} message
 * @param {import('protobufjs').Field} field
 */
function isRequired(message, { name }) {
  return REQUIRED[`${message.name}.${name}`] ?? REQUIRED[name];
}

/**
 * @param {import('protobufjs').Type} message
 * @param {import('protobufjs').Field} field
 */
function isOutputOnly(message, { name }) {
  return OUTPUT_ONLY.has(name) || OUTPUT_ONLY.has(`${message.name}.${name}`);
}

/**
 * @param {Wire} wire
 * @param {boolean} isRequest
 */
function typeOf({ name, kind, of, repeated }, isRequest) {
  const type = {
    string: 'string',
    requestId: 'string',
    bool: 'boolean',
    verified: 'boolean',
    bytes: isRequest ? 'Uint8Array' : 'Buffer',
    date: 'Date',
    list: 'readonly string[]',
    mask: 'readonly string[]',
    message: of,
    enum: isRequest ? `Exclude<${of}, 'UNSPECIFIED'>` : of,
    strings: isRequest
      ? /EncryptionContext$/i.test(name)
        ? 'EncryptionContext'
        : 'Strings'
      : 'Readonly<Record<string, string>>',
  }[kind];
  return `${repeated ? 'readonly ' : ''}${type ?? 'number'}${repeated ? '[]' : ''}`;
}
