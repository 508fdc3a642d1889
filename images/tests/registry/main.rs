//! Pulls and pushes over HTTP from and to a registry in the test itself.
//!
//! What hostile registries try (classes e15 to e19 of docs/hostile.md), and where it is tested; images that are
//! wrong in themselves are in `tests/hostile`.
//!
//! | class | what | test |
//! |---|---|---|
//! | e15 | digest, size or config that is not that of the bytes | `hostile::a_layer_with_a_wrong_digest_is_refused`, `sizes_are_held_against_the_manifest`, `a_config_with_a_wrong_digest_is_refused` |
//! | e15 | wrong bytes behind a partial download | `resume::a_partial_download_with_wrong_content_is_thrown_away` |
//! | e15 | a blob that changes between two requests | `resume::servers_that_cannot_resume_start_over`; what was verified is not fetched again: `pull::an_image_is_pulled_once` |
//! | e16 | documents beyond their limits | `hostile::a_manifest_of_ten_megabytes_or_a_thousand_layers_is_refused`, `pull::indexes_without_end_are_refused` |
//! | e16 | an index that lies | `pull::an_index_that_lies_is_refused` |
//! | e17 | addresses in a manifest | `hostile::addresses_in_a_manifest_are_never_asked` |
//! | e17 | redirects to the host's network, files, metadata; in a circle | `hostile::redirects_that_lead_astray_are_refused`, `a_circle_of_redirects_ends` |
//! | e17 | a name that resolves to a private address | `hostile::a_stranger_has_this_host_ask_nobody_who_is_private_to_it` |
//! | e17 | the login follows a redirect | `hostile::blobs_may_come_from_elsewhere_without_the_login` |
//! | e18 | `WWW-Authenticate` that leads elsewhere | `login::challenges_that_lead_astray_are_refused` |
//! | e18 | tokens of no kind or without end | `login::bad_tokens_are_refused` |
//! | e18 | bodies without end, chunked ones too; heads of megabytes | `hostile::endless_replies_end_at_their_limits`, `protocol::chunks_without_end_end_at_the_limit`, `a_head_of_ten_megabytes_is_an_error` |
//! | e18 | a body that stops or trickles | `hostile::a_server_that_falls_silent_is_given_up`, `a_server_that_trickles_is_given_up` |
//! | e18 | lengths and chunks that lie | `hostile::sizes_are_held_against_the_manifest`, `replies_that_are_no_http_are_errors`, `protocol::a_chunk_of_no_length_is_an_error` |
//! | e18 | wrong parts | `resume::servers_that_cannot_resume_start_over`, `protocol::a_part_that_nobody_asked_for_is_refused` |
//! | e18 | `Docker-Content-Digest`, `ETag`, `Link` and others that lie | `protocol::headers_that_say_something_else_are_not_believed`; of a push: `push_faults` |
//! | e18 | HTTPS that leads to HTTP | `tls::https_does_not_lead_to_http`, `plain_http_is_for_this_machine_and_named_registries_only` |
//! | e19 | a tag and a digest that disagree | `pull::a_digest_is_what_comes` |
//! | e19 | a tag that moves | `pull::a_moved_tag_brings_the_new_image_and_only_its_new_layers` |

mod client;
mod hostile;
mod inbox;
mod login;
mod protocol;
mod pull;
mod push;
mod push_faults;
mod resume;
#[path = "../../src/sample.rs"]
#[allow(dead_code)]
mod sample;
mod server;
mod tls;
