// Drives the unmodified tus-js-client in node: one JSON job on standard input, one JSON line of events for each thing that
// happened on standard output, the last of them {"event": "success" | "error" | "stopped", …}.
//
// job: {path, source: "file" | "stream" | "buffer", options: (tus-js-client's, JSON), urlStorage?: path, resume?: true,
//       stopAt?: bytes (abort there, keep the upload), terminateAt?: bytes (abort and DELETE), terminateAfter?: true}
import { createReadStream, readFileSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { createRequire } from 'node:module'

const tus = createRequire(`${process.cwd()}/`)('tus-js-client')
const job = JSON.parse(readFileSync(0, 'utf8'))
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)

const sources = {
  file: () => createReadStream(job.path),
  stream: () => createReadStream(job.path).pipe(new PassThrough()), // without a path: its size is unknown
  buffer: () => readFileSync(job.path),
}

let over = false
const end = (event, more) => {
  if (over) return
  over = true
  say(event, more)
  process.exit(0)
}

const upload = new tus.Upload(sources[job.source ?? 'file'](), {
  retryDelays: [0, 200, 500, 1000, 2000, 4000, 8000],
  ...job.options,
  ...(job.urlStorage ? { urlStorage: new tus.FileUrlStorage(job.urlStorage) } : {}),
  onAfterResponse: (request, response) =>
    say('response', {
      method: request.getMethod(),
      url: request.getURL(),
      status: response.getStatus(),
      headers: response.getUnderlyingObject().headers,
      sent: request.getUnderlyingObject().getHeaders(),
      body: response.getBody(),
    }),
  onProgress: (sent) => {
    if (job.stopAt != null && sent >= job.stopAt) upload.abort(false).then(() => end('stopped', { url: upload.url }))
    if (job.terminateAt != null && sent >= job.terminateAt) {
      upload.abort(true).then(
        () => end('stopped', { url: upload.url }),
        (error) => end('error', { message: String(error), url: upload.url }),
      )
    }
  },
  onError: (error) => end('error', { message: String(error), url: upload.url }),
  onSuccess: async ({ lastResponse }) => {
    let terminated = null
    if (job.terminateAfter) {
      await tus.Upload.terminate(upload.url, { ...job.options, retryDelays: null }).catch((error) => {
        terminated = String(error)
      })
    }
    end('success', { url: upload.url, terminated, headers: lastResponse.getUnderlyingObject().headers })
  },
})

if (job.resume) {
  const [previous] = await upload.findPreviousUploads()
  if (!previous) end('error', { message: 'no previous upload is known' })
  upload.resumeFromPreviousUpload(previous)
}
upload.start()
