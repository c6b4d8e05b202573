/**
 * The sign-off page: shows what is to be signed, has the person's passkey sign it, and hands the
 * answer to the command that waits on this machine.
 *
 * - What is to be signed comes in the URL's fragment, which no server sees.
 * - The challenge is computed here, from the very values that are shown: what a person sees is what
 *   they sign. Text that is not canonical is refused, since it could be shown as something else.
 * - Values become text nodes, never markup; characters that could mislead are shown as their codes.
 * - An answer goes to 127.0.0.1 alone.
 */
const DOMAIN = 'keyward/v1/approval\0';
const REGISTRATION_DOMAIN = 'keyward/v1/passkey-registration\0';
const DECISIONS = { approve: 1, reject: 2 };
const OPERATION = /^tenants\/[a-z0-9-]+\/pendingOperations\/([0-9a-f-]{36})$/;
const RETURN_TO = /^http:\/\/127\.0\.0\.1:\d{1,5}\/[\w-]{20,100}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** How long a passkey may take. */
const PATIENCE_MS = 300_000;
/** What misleads: controls, what is invisible or turns the direction, spaces that are no space. */
const MISLEADING = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}|^ +| +$/gu;

const element = (id) => document.getElementById(id);

/** What a person can be told; anything else is a defect of the page. */
class Refusal extends Error {}

function require(holds, message) {
  if (!holds) throw new Refusal(message);
}

// Bytes ------------------------------------------------------------------------------------------

function fromBase64url(text) {
  require(typeof text === 'string' && /^[\w-]*$/.test(text), 'The link to this page is damaged.');
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

function toBase64url(buffer) {
  const binary = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join('');
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}

function uuidBytes(uuid) {
  require(typeof uuid === 'string' && UUID.test(uuid), 'The link to this page is damaged.');
  return Uint8Array.from(uuid.replaceAll('-', '').match(/../g), (hex) => Number.parseInt(hex, 16));
}

function numberBytes(value, length) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes.slice(8 - length);
}

const utf8 = (text) => new TextEncoder().encode(text);

function withLength(text) {
  const bytes = utf8(text);
  return [numberBytes(bytes.length, 2), bytes];
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', await new Blob(parts).arrayBuffer()));
}

// What is asked for ------------------------------------------------------------------------------

/** Returns what the link asks for. Throws Refusal unless it is whole, and one that can be shown. */
function readOrder() {
  require(location.hash.length > 1, 'Open this page by the link that the keyward command prints.');
  const order = parse(new TextDecoder().decode(fromBase64url(location.hash.slice(1))));
  require(typeof order.returnTo === 'string' &&
    RETURN_TO.test(
      order.returnTo,
    ), 'The link to this page would send the answer elsewhere than to a command on this machine.');
  require(order.v === 1, 'The link to this page is of another release of the keyward command.');
  return order;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    throw new Refusal('The link to this page is damaged.');
  }
}

/** Returns a decision as it is shown and signed. */
async function readDecision({ environmentId, operation = {}, decision, credentialIds, rpId }) {
  const { name, method, requester, request, expireTime } = operation;
  require([name, method, requester, expireTime, rpId].every((text) => typeof text === 'string') &&
    Object.hasOwn(DECISIONS, decision) &&
    Array.isArray(credentialIds), 'The link to this page is damaged.');
  require(TIME.test(expireTime), 'The link to this page is damaged.');
  const [, operationId] = OPERATION.exec(name) ?? [];
  const requestBytes = fromBase64url(request);
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(requestBytes);
  const fields = parse(text);
  require(fields !== null &&
    typeof fields === 'object' &&
    canonical(fields) ===
      text, 'The request is not in its canonical form, so it could mean something else than it shows.');
  const expiresAt = Date.parse(expireTime);
  const digest = await sha256(requestBytes);
  const challenge = await sha256(
    utf8(DOMAIN),
    uuidBytes(environmentId),
    uuidBytes(operationId),
    ...withLength(method),
    digest,
    ...withLength(requester),
    numberBytes(DECISIONS[decision], 1),
    numberBytes(expiresAt, 8),
  );
  return {
    ...{ environmentId, operationId, method, requester, decision, text, fields, digest },
    ...{ expiresAt, challenge, rpId },
    credentialIds: credentialIds.map(fromBase64url),
  };
}

/** Returns a value as RFC 8785 writes it. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const members = Object.keys(value)
    .sort()
    .map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`);
  return `{${members.join(',')}}`;
}

// What is shown ----------------------------------------------------------------------------------

/** Returns a text as nodes, in which each character that could mislead is shown as its code. */
function shown(text) {
  const value = document.createElement('span');
  value.className = 'value';
  if (text === '') value.append(mark('empty'));
  let end = 0;
  for (const { 0: found, index } of text.matchAll(MISLEADING)) {
    value.append(text.slice(end, index));
    for (const character of found) value.append(mark(nameOf(character)));
    end = index + found.length;
  }
  value.append(text.slice(end));
  return value;
}

function nameOf(character) {
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
  return character === ' ' ? 'space' : `U+${code}`;
}

function mark(text) {
  const made = document.createElement('span');
  made.className = 'mark';
  made.textContent = text;
  return made;
}

function addRow(list, term, text) {
  const dt = document.createElement('dt');
  dt.append(shown(term));
  const dd = document.createElement('dd');
  dd.append(shown(text));
  list.append(dt, dd);
}

/** Adds a row for every value in the request, by its path. */
function addFields(list, value, path) {
  const isNested = value !== null && typeof value === 'object';
  if (!isNested) {
    addRow(list, path, typeof value === 'string' ? value : JSON.stringify(value));
    return;
  }
  const members = Object.entries(value);
  if (members.length === 0) addRow(list, path, Array.isArray(value) ? '[]' : '{}');
  for (const [name, member] of members)
    addFields(list, member, path + stepTo(name, { isItem: Array.isArray(value), isFirst: !path }));
}

/** Returns a name as a step of a path that can be read in one way only. */
function stepTo(name, { isItem, isFirst }) {
  if (isItem) return `[${name}]`;
  if (!/^\w+$/.test(name)) return `[${JSON.stringify(name)}]`;
  return isFirst ? name : `.${name}`;
}

function whenOf(time) {
  const local = new Date(time).toLocaleString(undefined, {
    dateStyle: 'long',
    timeStyle: 'medium',
  });
  return `${local} (${new Date(time).toISOString()})`;
}

function title(text, lead) {
  document.title = `Keyward: ${text}`;
  element('title').textContent = text;
  element('lead').textContent = lead;
  element('title').focus();
}

function showDecision({ decision, method, requester, operationId, ...rest }) {
  const [service, rpc] = method.split('/');
  const isApproval = decision === 'approve';
  title(
    isApproval ? `Approve ${rpc}?` : `Reject ${rpc}?`,
    isApproval
      ? 'Approve it only if you know why it is asked for. Once enough people have approved, the ' +
          'service performs exactly this.'
      : 'Once it is rejected, the service does not perform it.',
  );
  addFields(element('fields'), rest.fields, '');
  if (element('fields').children.length === 0) addRow(element('fields'), 'fields', 'none');
  const facts = element('facts');
  addRow(facts, 'Your decision', isApproval ? 'Approve' : 'Reject');
  addRow(facts, 'Method', `${rpc} (${service})`);
  addRow(facts, 'Asked for by', requester);
  addRow(facts, 'Decide before', whenOf(rest.expiresAt));
  addRow(facts, 'Operation', operationId);
  addRow(facts, 'Service', rest.environmentId);
  element('canonical').append(shown(rest.text));
  element('digest').textContent = Array.from(rest.digest, (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('');
  element('request').hidden = false;
  element('exact').hidden = false;
  element('sign').textContent = `${isApproval ? 'Approve' : 'Reject'} with my passkey`;
  element('sign').classList.toggle('reject', !isApproval);
}

function showRegistration({ user, rp }) {
  title(
    'Make a passkey?',
    'With it you decide on operations that wait for approval. Your device will verify that it ' +
      'is you, by a PIN, a fingerprint or your face.',
  );
  const facts = element('facts');
  addRow(facts, 'For', user.name);
  addRow(facts, 'Used on', rp.id);
  element('sign').textContent = 'Make a passkey';
}

// What the passkey does --------------------------------------------------------------------------

function descriptors(ids) {
  return ids.map((id) => ({ type: 'public-key', id }));
}

async function sign({ challenge, rpId, credentialIds, expiresAt }) {
  require(Date.now() < expiresAt, 'It has expired: no decision on it counts any more.');
  const { rawId, response } = await navigator.credentials.get({
    publicKey: {
      ...{ challenge, rpId, allowCredentials: descriptors(credentialIds) },
      ...{ userVerification: 'required', timeout: PATIENCE_MS },
    },
  });
  return {
    credentialId: toBase64url(rawId),
    clientDataJson: toBase64url(response.clientDataJSON),
    authenticatorData: toBase64url(response.authenticatorData),
    signature: toBase64url(response.signature),
  };
}

async function make({ challenge, user, excludeCredentials = [], ...options }) {
  const { rawId, response } = await navigator.credentials.create({
    publicKey: {
      ...options,
      challenge: fromBase64url(challenge),
      user: { ...user, id: fromBase64url(user.id) },
      excludeCredentials: descriptors(excludeCredentials.map(({ id }) => fromBase64url(id))),
      timeout: PATIENCE_MS,
    },
  });
  return {
    credentialId: toBase64url(rawId),
    clientDataJson: toBase64url(response.clientDataJSON),
    attestationObject: toBase64url(response.attestationObject),
    transports: (response.getTransports?.() ?? []).join(' '),
  };
}

/**
 * Returns what a passkey that the person has signs for a new one, so that no stolen session can add
 * one.
 */
async function vouch(made, { rpId, credentialIds }) {
  const digests = await Promise.all(
    [made.clientDataJson, made.attestationObject].map((part) => sha256(fromBase64url(part))),
  );
  const challenge = await sha256(utf8(REGISTRATION_DOMAIN), ...digests);
  const signed = await sign({ challenge, rpId, credentialIds, expiresAt: Infinity });
  const named = Object.entries(signed).map(([name, value]) => [`voucher.${name}`, value]);
  return { ...made, ...Object.fromEntries(named) };
}

/** Sends the answer to the command, which answers with a page of its own. */
function sendTo(returnTo, answer) {
  const form = element('answer');
  for (const [name, value] of Object.entries(answer)) {
    const input = document.createElement('input');
    Object.assign(input, { type: 'hidden', name, value });
    form.append(input);
  }
  form.action = returnTo;
  form.submit();
}

// The page ---------------------------------------------------------------------------------------

const PROBLEMS = {
  NotAllowedError:
    'Nothing was signed: you cancelled it, it took too long, or your passkey could not verify ' +
    'that it is you.',
  SecurityError:
    'Nothing was signed: the passkeys of this service are not for the address of this page.',
  InvalidStateError: 'This device already has a passkey of yours for this service.',
};

function showProblem(error) {
  const known = error instanceof Refusal ? error.message : PROBLEMS[error.name];
  element('problem').textContent = known ?? `This page failed: ${error.message}`;
  element('status').textContent = '';
}

/** Has the button do a step, which returns the answer, or another step that needs its own press. */
function offer(returnTo, step) {
  element('sign').onclick = async () => {
    element('problem').textContent = '';
    element('status').textContent = 'Follow the instructions of your device.';
    element('sign').disabled = true;
    try {
      const outcome = await step();
      if (typeof outcome === 'function') {
        element('status').textContent = 'Now confirm the new passkey with one that you have.';
        element('sign').textContent = 'Confirm with a passkey I have';
        offer(returnTo, outcome);
      } else sendTo(returnTo, outcome);
    } catch (error) {
      showProblem(error);
    }
    element('sign').disabled = false;
  };
}

async function prepare() {
  require(window.PublicKeyCredential, 'This browser has no passkeys.');
  const order = readOrder();
  const { kind, returnTo, creationOptions, credentialIds = [] } = order;
  element('cancel').onclick = () => sendTo(returnTo, { error: 'cancelled' });
  if (kind === 'decide') {
    const decision = await readDecision(order);
    showDecision(decision);
    offer(returnTo, () => sign(decision));
  } else {
    require(kind === 'register' && creationOptions?.user, 'The link to this page is damaged.');
    const own = { rpId: creationOptions.rp.id, credentialIds: credentialIds.map(fromBase64url) };
    showRegistration(creationOptions);
    offer(returnTo, async () => {
      const made = await make(creationOptions);
      return own.credentialIds.length === 0 ? made : () => vouch(made, own);
    });
  }
  element('content').hidden = false;
}

// Another link in the same tab is another order.
addEventListener('hashchange', () => location.reload());
try {
  await prepare();
} catch (error) {
  title('Nothing to sign', 'Nothing was signed.');
  showProblem(error);
}
