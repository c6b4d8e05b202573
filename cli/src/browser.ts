/**
 * Opens the person's browser, where there is one.
 *
 * - What is opened is visible to other users of the machine, as arguments of programs are: a URL
 *   with a secret goes through a file that only the person can read.
 * - A browser that does not open is no failure: the caller prints the URL as well.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const OPENERS: Partial<Record<NodeJS.Platform, readonly [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['rundll32', 'url.dll,FileProtocolHandler'],
};

/** Opens a URL, or the URL of a file. */
export function openInBrowser(url: string): void {
  const { platform, env } = process;
  const hasScreen = Boolean(env['DISPLAY'] || env['WAYLAND_DISPLAY']);
  const [program, ...args] = OPENERS[platform] ?? ['xdg-open'];
  // Without a screen xdg-open would run a browser in this terminal.
  if (OPENERS[platform] === undefined && !hasScreen) return;
  const child = spawn(program, [...args, url], { detached: true, stdio: 'ignore' });
  child.on('error', () => {});
  child.unref();
}

/** Opens a URL that has a secret; what it went through is removed by disposing. */
export function openSecretlyInBrowser(url: string): Disposable {
  const folder = mkdtempSync(join(tmpdir(), 'keyward-'));
  const file = join(folder, 'go-on.html');
  const text = url.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;');
  const page =
    '<!doctype html><meta charset="utf-8"><title>Keyward</title>' +
    `<meta http-equiv="refresh" content="0;url=${text}"><a href="${text}">Go on</a>\n`;
  writeFileSync(file, page, { mode: 0o600 });
  openInBrowser(pathToFileURL(file).href);
  return { [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}
