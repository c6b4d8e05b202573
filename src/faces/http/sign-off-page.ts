/**
 * The page by which a person's passkey signs a decision: one static answer, the same for everyone.
 *
 * Invariants:
 * - it has no session, loads nothing, connects to nothing, and sends its answer to this machine's
 *   own address alone: its policy allows nothing else, nor any script but its own;
 * - it is not framed, not kept, and tells no other page where a person came from.
 * What is signed, `sign-off/page.js` shows; it is not of this process.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { OutgoingHttpHeaders } from 'node:http2';
import { join } from 'node:path';

/** Where it is. */
export const SIGN_OFF_PATH = '/sign-off';

/** An answer to everyone's GET. */
export interface Page {
  readonly headers: OutgoingHttpHeaders;
  readonly body: Buffer;
}

const FOLDER = join(import.meta.dirname, 'sign-off');
/** The command's, which waits there for one answer. */
const LOOPBACK = 'http://127.0.0.1:*';

/** Returns the page, put together from its files. Throws where one is missing. */
export function signOffPage(): Page {
  const read = (name: string) => readFileSync(join(FOLDER, name), 'utf8');
  const [html, style, script] = [read('page.html'), read('page.css'), read('page.js')];
  // By a function: `$` in a file means nothing.
  const text = html
    .replace('<style></style>', () => `<style>${style}</style>`)
    .replace('<script type="module"></script>', () => `<script type="module">${script}</script>`);
  return { headers: headersFor(style, script), body: Buffer.from(text) };
}

function headersFor(style: string, script: string): OutgoingHttpHeaders {
  const policy = [
    "default-src 'none'",
    `script-src '${digestOf(script)}'`,
    `style-src '${digestOf(style)}'`,
    "connect-src 'none'",
    `form-action ${LOOPBACK}`,
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ];
  return {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': policy.join('; '),
    'permissions-policy': 'publickey-credentials-get=(self), publickey-credentials-create=(self)',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-store',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
  };
}

function digestOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}
