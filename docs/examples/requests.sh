# An example of each request, in an order in which all of them work: tests/integration/test_api_requests.py runs this file,
# and `make docs` shows each example in the API reference. "-> 409" in a heading: that is the answer here.
api=http://127.0.0.1:8700
key=$(cat var/secrets/api_key)
json="Content-Type: application/json"
ask() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer $key" "$@"; }

# GET /v1/projects
ask $api/v1/projects

# POST /v1/projects
project=$(ask $api/v1/projects -H "$json" -d '{"name": "shop"}' | jq -r .id)

# GET /v1/projects/{project_id}
ask $api/v1/projects/$project

# PATCH /v1/projects/{project_id}
ask -X PATCH $api/v1/projects/$project -H "$json" -d '{"sender_id": "exampleshop", "tests_per_hour": 20, "retention_days": 90}'

# POST /v1/projects/{project_id}/close
ask -X POST $api/v1/projects/$project/close

# POST /v1/domains
ask $api/v1/domains -H "$json" -d '{"name": "example.com"}'

# GET /v1/domains
ask $api/v1/domains

# PATCH /v1/domains/{name}
ask -X PATCH $api/v1/domains/example.com -H "$json" -d '{"bounce_domain": "bounces.example.com"}'

# POST /v1/domains/{domain}/check
ask -X POST $api/v1/domains/example.com/check -H "$json" -d '{"egress": ["192.0.2.1"]}'

# POST /v1/domains/{name}/prove -> 409
ask -X POST $api/v1/domains/example.org/prove

# PUT /v1/limits/{scope}
ask -X PUT $api/v1/limits/project -H "$json" -d '{"emails_per_second": 50, "emails_per_day": 100000}'

# GET /v1/limits
ask $api/v1/limits

# DELETE /v1/limits/{scope}
ask -X DELETE $api/v1/limits/project

# PUT /v1/events/settings
ask -X PUT $api/v1/events/settings -H "$json" -d '{"enabled": true}'

# GET /v1/events/settings
ask $api/v1/events/settings

# POST /v1/webhooks
webhook=$(ask $api/v1/webhooks -H "$json" -d '{
  "url": "https://hooks.example.com/vashsender",
  "types": ["recipient.failed", "campaign.*"]
}' | jq -r .id)

# GET /v1/webhooks
ask $api/v1/webhooks

# GET /v1/webhooks/{webhook_id}
ask $api/v1/webhooks/$webhook

# POST /v1/webhooks/{webhook_id}/rotate
ask -X POST $api/v1/webhooks/$webhook/rotate

# POST /v1/webhooks/{webhook_id}/test
ask -X POST $api/v1/webhooks/$webhook/test

# POST /v1/webhooks/{webhook_id}/replay
ask $api/v1/webhooks/$webhook/replay -H "$json" -d '{"since": "2026-11-01T00:00:00Z"}'

# GET /v1/webhooks/{webhook_id}/set-aside
ask $api/v1/webhooks/$webhook/set-aside

# PATCH /v1/webhooks/{webhook_id}
ask -X PATCH $api/v1/webhooks/$webhook -H "$json" -d '{"state": "paused"}'

# DELETE /v1/webhooks/{webhook_id}
ask -X DELETE $api/v1/webhooks/$webhook

# POST /v1/suppressions
ask $api/v1/suppressions -H "$json" -d '{"email": "gone@example.com", "detail": "asked by telephone"}'

# GET /v1/suppressions
ask "$api/v1/suppressions?reason=manual"

# GET /v1/suppressions/export
ask "$api/v1/suppressions/export?format=ndjson&gzip=true" > suppressions.ndjson.gz

# DELETE /v1/suppressions
ask -X DELETE "$api/v1/suppressions?email=gone@example.com"

# POST /v1/erase
ask $api/v1/erase -H "$json" -d '{"email": "gone@example.com"}'

# POST /v1/campaigns
campaign=$(ask $api/v1/campaigns -H "$json" -H "Idempotency-Key: spring-1" -d '{
  "name": "Spring news",
  "from": {"email": "news@example.com", "name": "Example"},
  "subject": "{{ first_name }}, our spring news",
  "html": "<p>Hello {{ first_name }}!</p>"
}' | jq -r .id)

# PATCH /v1/campaigns/{campaign_id}
ask -X PATCH $api/v1/campaigns/$campaign -H "$json" -d '{"reply_to": "office@example.com", "priority": 5}'

# POST /v1/campaigns/{campaign_id}/recipients
import=$(ask $api/v1/campaigns/$campaign/recipients -H "Content-Type: text/csv" --data-binary @people.csv | jq -r .id)

# GET /v1/campaigns/{campaign_id}/imports
ask $api/v1/campaigns/$campaign/imports

# GET /v1/campaigns/{campaign_id}/imports/{import_id}
ask $api/v1/campaigns/$campaign/imports/$import

# POST /v1/campaigns/{campaign_id}/imports/{import_id}/cancel -> 409
ask -X POST $api/v1/campaigns/$campaign/imports/$import/cancel

# POST /v1/campaigns/{campaign_id}/preview
ask $api/v1/campaigns/$campaign/preview -H "$json" -d '{"data": {"first_name": "Ann"}}'

# POST /v1/campaigns/{campaign_id}/test
ask $api/v1/campaigns/$campaign/test -H "$json" -d '{
  "recipients": [{"email": "me@example.com", "data": {"first_name": "Ann"}}]
}'

# POST /v1/campaigns/{campaign_id}/send
ask $api/v1/campaigns/$campaign/send -H "$json" -d '{"scheduled_at": "2099-01-01T08:00:00Z"}'
ask -X POST $api/v1/campaigns/$campaign/send -H "Idempotency-Key: spring-1-now"

# POST /v1/campaigns/{campaign_id}/pause
ask -X POST $api/v1/campaigns/$campaign/pause

# POST /v1/campaigns/{campaign_id}/resume
ask -X POST $api/v1/campaigns/$campaign/resume

# GET /v1/campaigns/{campaign_id}/events
ask --no-buffer $api/v1/campaigns/$campaign/events

# GET /v1/campaigns/{campaign_id}
ask $api/v1/campaigns/$campaign

# GET /v1/campaigns
ask "$api/v1/campaigns?status=finished&limit=10"

# GET /v1/campaigns/{campaign_id}/recipients
ask "$api/v1/campaigns/$campaign/recipients?status=failed"

# GET /v1/campaigns/{campaign_id}/recipients/export
ask "$api/v1/campaigns/$campaign/recipients/export?format=csv" > results.csv

# GET /v1/campaigns/{campaign_id}/timeline
ask $api/v1/campaigns/$campaign/timeline

# POST /v1/campaigns/{campaign_id}/retry-failed
ask -X POST $api/v1/campaigns/$campaign/retry-failed

# POST /v1/campaigns/{campaign_id}/resolve-unknown -> 409
ask $api/v1/campaigns/$campaign/resolve-unknown -H "$json" -d '{"as": "sent"}'

# POST /v1/campaigns/{campaign_id}/cancel
later=$(ask $api/v1/campaigns -H "$json" -d '{
  "name": "Summer news",
  "from": {"email": "news@example.com"},
  "subject": "Summer news",
  "text": "Hello!",
  "recipients": [{"email": "ann@example.com"}]
}' | jq -r .id)
ask $api/v1/campaigns/$later/send -H "$json" -d '{"scheduled_at": "2099-06-01T08:00:00Z"}'
ask -X POST $api/v1/campaigns/$later/cancel

# DELETE /v1/campaigns/{campaign_id}
draft=$(ask $api/v1/campaigns -H "$json" -d '{
  "name": "A draft",
  "from": {"email": "news@example.com"},
  "subject": "A draft",
  "text": "Hello!"
}' | jq -r .id)
ask -X DELETE $api/v1/campaigns/$draft

# GET /v1/events
ask "$api/v1/events?after=0&types=recipient.*"

# GET /v1/events/stream
ask --no-buffer --max-time 2 "$api/v1/events/stream?after=0" || test $? = 28

# POST /v1/feedback/raw
ask $api/v1/feedback/raw -H "Content-Type: message/rfc822" --data-binary @bounce.eml

# GET /v1/reports
ask "$api/v1/reports?kind=bounced"

# GET /v1/feedback/ses
url=$(ask $api/v1/feedback/ses | jq -r .url)

# POST /hooks/ses/{token} -> 401
curl --silent --show-error --fail-with-body $api/hooks/ses/${url##*/} -H "$json" -d '{"Type": "Notification"}'

# POST /v1/keys
other=$(ask $api/v1/keys -H "$json" -d '{
  "name": "reports",
  "scopes": ["campaigns:read"],
  "expires_days": 90
}' | jq -r .id)

# GET /v1/keys
ask $api/v1/keys

# POST /v1/keys/{key_id}/rotate
ask $api/v1/keys/$other/rotate -H "$json" -d '{"overlap_hours": 24}'

# DELETE /v1/keys/{key_id}
ask -X DELETE $api/v1/keys/$other

# GET /v1/sessions
ask $api/v1/sessions

# DELETE /v1/sessions/{session_id} -> 404
ask -X DELETE $api/v1/sessions/1000

# GET /v1/audit
ask "$api/v1/audit?limit=10"

# GET /v1/audit/export
ask "$api/v1/audit/export?format=csv" > audit.csv

# GET /v1/services
ask $api/v1/services

# GET /v1/queues
ask $api/v1/queues

# GET /v1/batches
ask "$api/v1/batches?state=sending"

# DELETE /v1/domains/{name}
ask -X DELETE $api/v1/domains/example.com

# GET /u/{token}
curl --silent --show-error --fail-with-body $api/u/$token

# POST /u/{token}
curl --silent --show-error --fail-with-body -X POST $api/u/$token -d List-Unsubscribe=One-Click
