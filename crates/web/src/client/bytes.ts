// Terminal bytes as they travel in frames: `data` (UTF-8 text) or `b64`.
import type { Payload } from "../protocol.gen.js";
import { INPUT_TEXT_MAX } from "./limits.js";

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const utf8 = (text: string): Uint8Array => encoder.encode(text);

/** The bytes of a frame. Throws on base64 that is none. */
export function decodePayload(frame: Payload): Uint8Array {
  if (frame.b64 === undefined) return encoder.encode(frame.data ?? "");
  const binary = atob(frame.b64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** A frame's worth as text where it is valid UTF-8 and not blown up by JSON's escapes; as base64 otherwise. */
export function encodePayload(bytes: Uint8Array): Payload {
  try {
    const data = strict.decode(bytes);
    if (bytes.length < INPUT_TEXT_MAX / 6 || encoder.encode(JSON.stringify(data)).length <= INPUT_TEXT_MAX) {
      return { data };
    }
  } catch {
    // Not UTF-8.
  }
  return { b64: btoa(String.fromCharCode(...bytes)) };
}
