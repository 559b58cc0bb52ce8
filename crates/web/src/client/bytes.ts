// Frame payloads: terminal bytes as `data` (UTF-8 text) or `b64`.
import type { Payload } from "../protocol.gen.js";
import { INPUT_TEXT_MAX } from "./limits.js";

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const utf8 = (text: string): Uint8Array => encoder.encode(text);

/** Decodes a frame's payload. Throws on invalid base64. */
export function decodePayload(frame: Payload): Uint8Array {
  if (frame.b64 === undefined) return encoder.encode(frame.data ?? "");
  const binary = atob(frame.b64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Encodes one frame's bytes: as text if they are valid UTF-8 and JSON escapes do not inflate them, else as base64. */
export function encodePayload(bytes: Uint8Array): Payload {
  try {
    const data = strict.decode(bytes);
    // An escape such as \u0000 takes six bytes, so shorter payloads always fit and need no measuring.
    if (bytes.length < INPUT_TEXT_MAX / 6 || encoder.encode(JSON.stringify(data)).length <= INPUT_TEXT_MAX) {
      return { data };
    }
  } catch {
    // Not UTF-8.
  }
  return { b64: btoa(String.fromCharCode(...bytes)) };
}
