/* Included by the module that images/nginx/build.sh derives from gzip_static: who takes FILE.br in place of FILE. */

/*
 * NGX_OK when Accept-Encoding names br with a weight above 0 (RFC 9110, section 12.5.3), else NGX_DECLINED. As in nginx's own
 * test for gzip, `*` names nothing, and the first field counts.
 */
static ngx_int_t
ngx_http_brotli_ok(ngx_http_request_t *r)
{
    u_char           *p, *end, *last;
    ngx_table_elt_t  *accepted;

    accepted = r->headers_in.accept_encoding;

    if (r != r->main || accepted == NULL) {
        return NGX_DECLINED;
    }

    last = accepted->value.data + accepted->value.len;

    for (p = accepted->value.data; p < last; p = end + 1) {

        end = ngx_strlchr(p, last, ',');
        if (end == NULL) {
            end = last;
        }

        while (p < end && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if (end - p < 2 || ngx_strncasecmp(p, (u_char *) "br", 2) != 0) {
            continue;
        }

        p += 2;

        while (p < end && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if (p == end) {
            return NGX_OK;
        }

        if (*p != ';') {
            continue;
        }

        /* What follows is q= and a number: 0, 0.0, 0.00 and 0.000 refuse. */
        while (p < end) {
            if (*p >= '1' && *p <= '9') {
                return NGX_OK;
            }

            p++;
        }

        return NGX_DECLINED;
    }

    return NGX_DECLINED;
}
